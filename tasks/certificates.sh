umask 022
cd "$root" || exit 1
live=volumes/certbot/conf/live/$domain/fullchain.pem
held=volumes/certbot/conf/renewal/$domain.conf
authorities=$root/certificates/ca.pem
scratch=$(mktemp -d) || exit 1
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "no certificate for $domain: $1; the site runs on as it was" >&2
    exit 1
}

# A deploy and the timer may come at once. Who can open the file can hold it, so nobody else can.
lock=$root/.certificates.lock
(umask 077; : >>"$lock") && chmod 600 "$lock" && exec 9>"$lock" || exit 1
flock -w 600 9 || fail "another run of it holds $lock for 10 minutes now; end that one (find /proc/[0-9]*/fd -lname $lock) and run this again"

# Whether http://<domain> leads here at each of its addresses, as an authority may take any of them.
reach() {
    challenges=volumes/certbot/www/.well-known/acme-challenge
    word=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    there=$(getent ahosts "$domain" | awk '{print $1}' | sort -u)
    test -n "$there" || fail "$domain has no address in DNS; add an A or AAAA record that leads to this host"
    mkdir -p "$challenges" && echo "$word" >"$challenges/$word"
    wrong=
    for address in $there; do knock "$address" || { wrong=$address; break; }; done
    rm -f "$challenges/$word"
    test -n "$wrong" || return 0
    case $code in 000) why=$(sed 's/^curl: ([0-9]*) //; s/\.*$//; 1q' "$scratch/error") ;; *) why="answers $code" ;; esac
    ip -o address show | grep -Fq " $wrong/" || fail \
        "http://$domain leads to $wrong, this host is $(ip route get 192.0.2.1 | sed -n 's/.* src \([^ ]*\).*/\1/p'), and no \
file of ours comes back ($why); mend its DNS record, or let port 80 through to here"
    fail "port 80 at $wrong is not our nginx ($why); free it, or mend the DNS record of $domain"
}

# Tried as an authority does: wherever it is redirected to, whatever certificate is there.
knock() {
    case $1 in *:*) at="[$1]" ;; *) at=$1 ;; esac
    rm -f "$scratch/body"
    code=$(curl --silent --show-error --location --max-redirs 10 --insecure --max-time 20 --noproxy '*' --max-filesize 1000 \
        --resolve "$domain:80:$at" --resolve "$domain:443:$at" --output "$scratch/body" --write-out '%{http_code}' \
        "http://$domain/.well-known/acme-challenge/$word" 2>"$scratch/error")
    test "$(cat "$scratch/body" 2>/dev/null)" = "$word"
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
# Not by Compose: its file and .env here may still be those of a site that is about to be replaced.
ask() {
    test ! -e "$held" || grep -Fqx "server = $server" "$held" || set -- "$@" --force-renewal
    set -- "$image" -c "$inside" certbot --cert-name "$domain" --server "$server" "$@"
    test ! -s "$authorities" || set -- --volume "$authorities:$own:ro" "$@"
    for power in $powers; do set -- --cap-add "$power" "$@"; done
    certbot=$root/volumes/certbot
    docker run --rm --pull never --network "${project}_default" \
        --cap-drop ALL --security-opt no-new-privileges:true --pids-limit "$processes" \
        --volume "$certbot/conf:/etc/letsencrypt" --volume "$certbot/www:/var/www/html" --volume "$certbot/logs:/var/log/letsencrypt" \
        --env "CERTBOT_EMAIL=$email" --env "CERTBOT_DOMAIN=$domain" --env "CERTBOT_OPTIONS=$options" --entrypoint sh "$@" \
        >"$scratch/said" 2>&1 </dev/null && test -e "$live" && return
    fail "$(explain) (more in $root/volumes/certbot/logs/letsencrypt.log)"
}

serve() {
    mkdir -p "${site%/*}"
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
# While another site still runs, which loads nothing of this. The authorities to trust come on stdin: those here may be its own.
obtain)
    cat >"$scratch/ca.pem"; authorities=$scratch/ca.pem
    test "$check" != yes || reach
    ask
    # nginx's next configuration begins with https; a certificate that is not proven yet has no digest.
    grep -qs /https.conf "$site" || serve "$(printf '%s' "$https" | sed "s/@/none/")" ;;
issue) test "$check" != yes || reach; ask "$@"; load ;;
renew) ask "$@"; load ;;
load) load ;;
*) echo "usage: $0 [renew [--force-renewal]]" >&2; exit 2 ;;
esac
