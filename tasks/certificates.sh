umask 022
cd "$root" || exit 1
live=volumes/certbot/conf/live/$name/fullchain.pem
held=volumes/certbot/conf/renewal/$name.conf
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT
# A deploy and the timer may come at once.
exec 9>"$root/.certificates.lock"
flock 9

fail() {
    echo "no certificate for $domain: $1; the site runs on as it was" >&2
    exit 1
}

# Whether http://<domain> leads here, tried as an authority does: wherever it is redirected to, whatever certificate is there.
reach() {
    challenges=volumes/certbot/www/.well-known/acme-challenge
    word=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    mkdir -p "$challenges" && echo "$word" >"$challenges/$word"
    code=$(curl --silent --show-error --location --max-redirs 10 --insecure --max-time 20 --noproxy '*' --max-filesize 1000 \
        --output "$scratch/body" --write-out '%{http_code}' "http://$domain/.well-known/acme-challenge/$word" 2>"$scratch/error")
    rm -f "$challenges/$word"
    test "$(cat "$scratch/body" 2>/dev/null)" != "$word" || return 0
    there=$(getent ahosts "$domain" | awk '{print $1}' | sort -u | tr '\n' ' ')
    test -n "$there" || fail "$domain has no address in DNS; add an A or AAAA record that leads to this host"
    case $code in 000) why=$(sed 's/^curl: ([0-9]*) //; s/\.*$//; 1q' "$scratch/error") ;; *) why="answers $code" ;; esac
    for address in $there; do
        ip -o address show | grep -q " $address/" || fail \
            "http://$domain leads to ${there% }, this host is $(ip route get 192.0.2.1 | sed -n 's/.* src \([^ ]*\).*/\1/p'), and no \
file of ours comes back ($why); mend its DNS record, or let port 80 through to here"
    done
    fail "port 80 at ${there% } is not our nginx ($why); free it, or mend the DNS record of $domain"
}

# What certbot said, brought down to its cause and what to do about it.
explain() {
    detail=$(sed -n 's/^ *Detail: //p' "$scratch/said" | head -n 1)
    kind=$(sed -n 's/^ *Type: *//p' "$scratch/said" | head -n 1)
    cause=$(grep -A 1 '^An unexpected error occurred:' "$scratch/said" | tail -n 1)
    cause=${detail:-${cause:-$(grep -v '^Ask for help' "$scratch/said" | grep . | tail -n 1)}}
    cause=$(printf "%s" "$cause" | sed "s/^[A-Za-z_.]*\(Error\|Exception\): //; s/\.*\$//" | cut -c 1-400)
    case $kind:$cause in
    :*CERTIFICATE_VERIFY_FAILED*) echo "the certificate of $server is not trusted; put its authority into ca_certificates" ;;
    *[Rr]ate?[Ll]imit* | *"too many"*) echo "$server refuses for now, there is a limit: $cause" ;;
    :*refused | :*Connection* | :*NameResolution* | :*imeout* | :*"timed out"* | :*Response*)
        echo "$server does not answer ($cause); run this again when it does" ;;
    dns:* | *"could not resolve"* | *"no such host"*) echo "its authority finds no address of the name ($cause); mend the DNS record" ;;
    connection:*) echo "its authority does not reach port 80 ($cause); let it in from everywhere" ;;
    unauthorized:*) echo "its authority finds something else there ($cause); mend the DNS record or what answers at port 80" ;;
    *) echo "certbot says: $cause" ;;
    esac
}

# Arguments: more options for certbot. It asks for a certificate where there is none, for another name, or for one that ends soon.
ask() {
    test ! -e "$held" || grep -Fqx "server = $server" "$held" || set -- "$@" --force-renewal
    docker compose run --rm --no-deps -T --entrypoint sh certbot -c "$inside" certbot \
        --cert-name "$name" --server "$server" "$@" >"$scratch/said" 2>&1 </dev/null && test -e "$live" && return
    fail "$(explain) (more in $root/volumes/certbot/logs/letsencrypt.log)"
}

serve() {
    printf '%s\n' "$1" >"$site.new" && mv -f "$site.new" "$site"
}

# nginx serves https with the certificate that lies here; else what was served before goes on.
load() {
    digest=$(sha256sum <"$live" | cut -c 1-16)
    before=$(cat "$site")
    wanted=$(printf '%s' "$https" | sed "s/@/$digest/")
    container=$(nginx_container)
    # One that does not run will read it when it starts.
    test -n "$container" || { serve "$wanted"; return; }
    case "$(health "$container") " in *" certificate=$digest "*) test "$before" != "$wanted" || return 0 ;; esac
    serve "$wanted"
    reload_nginx "certificate=$digest" && prove && return
    serve "$before"
    docker exec "$container" nginx -c /etc/nginx/dify/nginx.conf -s reload 2>/dev/null
    fail "there is one in $root/$live, but nginx does not serve it"
}

# With nothing but this very certificate trusted, https answers by the name. Old workers may take a few requests more.
prove() {
    awk '/BEGIN/ {n++} n == 1' "$live" >"$scratch/leaf.pem"
    for look in 1 2 3 4 5 6 7 8 9 10; do
        curl --silent --show-error --max-time 10 --noproxy '*' --cacert "$scratch/leaf.pem" --output /dev/null \
            --resolve "$domain:$https_port:$https_address" "https://$domain:$https_port/nginx-health" 2>"$scratch/error" && return
        sleep 1
    done
    cat "$scratch/error" >&2
    return 1
}

job=${1:-renew}
test $# -eq 0 || shift
case $job in
issue) test "$check" != yes || reach; ask "$@"; load ;;
renew) ask "$@"; load ;;
load) load ;;
*) echo "usage: $0 [renew [--force-renewal]]" >&2; exit 2 ;;
esac
