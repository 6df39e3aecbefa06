"""PostgreSQL, Redis and S3 that run on another host: what is wrong is named before anything starts, and right works.

All three are real servers (PostgreSQL 17, Redis 8, moto's S3, which checks signatures), and all take TLS or signed requests only.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable

import pytest

from lab.hosts import Host
from tests.lab.checkout import Checkout, Run
from tests.lab.containers import containers, reached, replaced, sh

DB_PASSWORD, REDIS_PASSWORD, SENTINEL_PASSWORD = "p@ss:w/rd-of-dify", "c@che:of/dify", "asked-of-sentinels"
LACKING = "-eval -publish"

CERTIFICATES = """
set -e
mkdir -p /etc/lab && cd /etc/lab
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj '/CN=authority of the lab' \\
    -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj '/CN=data' -keyout server.key -out server.csr 2>/dev/null
printf 'subjectAltName=IP:%s\\n' "$address" > san
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -days 30 -extfile san -out server.pem 2>/dev/null
for user in postgres redis; do
    install -d -m 700 -o $user /etc/lab/$user && install -m 600 -o $user server.key server.pem ca.pem /etc/lab/$user
done
"""
POSTGRESQL = """
set -e
cd /etc/postgresql/17/main
cat >> postgresql.conf <<'EOF'
listen_addresses = '*'
ssl = on
ssl_cert_file = '/etc/lab/postgres/server.pem'
ssl_key_file = '/etc/lab/postgres/server.key'
EOF
echo 'hostssl all all 0.0.0.0/0 scram-sha-256' >> pg_hba.conf
systemctl restart postgresql
runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 <<EOF
CREATE ROLE dify LOGIN PASSWORD '$password';
CREATE DATABASE dify;
\\c dify
GRANT USAGE, CREATE ON SCHEMA public TO dify;
EOF
"""
# One with TLS and a user of Dify's own, one without, which a Sentinel watches over.
REDIS = """
set -e
systemctl disable --now redis-server >/dev/null 2>&1
cat > /etc/lab/tls.conf <<EOF
port 0
tls-port 6380
bind 0.0.0.0
tls-cert-file /etc/lab/redis/server.pem
tls-key-file /etc/lab/redis/server.key
tls-ca-cert-file /etc/lab/redis/ca.pem
tls-auth-clients no
save ""
user default off
user admin on nopass ~* &* +@all
user dify on >$password ~* &* +@all $lacking
EOF
cat > /etc/lab/plain.conf <<EOF
port 6390
bind 0.0.0.0
requirepass $password
save ""
EOF
cat > /etc/lab/sentinel.conf <<EOF
port 26379
bind 0.0.0.0
dir /tmp
requirepass $asked
sentinel monitor dify $address 6390 1
sentinel auth-pass dify $password
EOF
chown redis /etc/lab /etc/lab/*.conf
for name in tls plain; do systemd-run -q --unit redis-$name --uid redis redis-server /etc/lab/$name.conf; done
systemd-run -q --unit redis-sentinel-lab --uid redis redis-server /etc/lab/sentinel.conf --sentinel
"""
# After these requests moto lets nobody in without a right signature.
S3 = """
import json, boto3
to = dict(endpoint_url="http://127.0.0.1:9000", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
iam = boto3.client("iam", **to)
iam.create_user(UserName="dify")
allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
iam.put_user_policy(UserName="dify", PolicyName="files", PolicyDocument=document)
key = iam.create_access_key(UserName="dify")["AccessKey"]
boto3.client("s3", **to).create_bucket(Bucket="files")
print(json.dumps([key["AccessKeyId"], key["SecretAccessKey"]]))
"""
START_S3 = "systemd-run -q --unit s3 --setenv INITIAL_NO_AUTH_ACTION_COUNT=4 python3 -m moto.server -H 0.0.0.0 -p 9000"


class Data:
    """The host with the servers, and what Dify must be told of them."""

    def __init__(self, host: Host) -> None:
        self.host = host
        packages = "openssl postgresql python3-moto python3-flask python3-flask-cors redis-server"
        sh(
            host,
            f"apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install {packages}",
        )
        self._run(CERTIFICATES, address=host.address)
        self._run(POSTGRESQL, password=DB_PASSWORD)
        secrets = {"password": REDIS_PASSWORD, "asked": SENTINEL_PASSWORD}
        self._run(REDIS, address=host.address, lacking=LACKING, **secrets)
        sh(host, START_S3)
        sh(host, "timeout 60 bash -c 'until (exec 3<>/dev/tcp/127.0.0.1/9000) 2>/dev/null; do sleep 1; done'")
        self.access_key, self.secret_key = json.loads(self._run("exec python3", S3))

    def _run(self, script: str, stdin: str | None = None, **values: str) -> str:
        assigned = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
        done = self.host.run(assigned + script, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def psql(self, database: str, statement: str) -> str:
        """Run a statement as the administrator of the database."""
        return self._run(f"runuser -u postgres -- psql -q -v ON_ERROR_STOP=1 -tA -d {database}", statement)

    def redis(self, statement: str) -> str:
        """Run a command as the administrator of the Redis with TLS."""
        return self._run(f"redis-cli --user admin --pass '' --no-auth-warning --tls --insecure -p 6380 {statement}")

    @property
    def authority(self) -> str:
        return sh(self.host, "cat /etc/lab/ca.pem") + "\n"

    def settings(self, **changed: str) -> str:
        """A .env with which all of it works, but for what is changed; an empty value leaves a setting out."""
        at = self.host.address
        right = {
            "DB_HOST": at,
            "DB_USERNAME": "dify",
            "DB_PASSWORD": DB_PASSWORD,
            "DB_EXTRAS": "sslmode=require",
            "REDIS_HOST": at,
            "REDIS_PORT": "6380",
            "REDIS_USERNAME": "dify",
            "REDIS_PASSWORD": REDIS_PASSWORD,
            "REDIS_USE_SSL": "true",
            "REDIS_SSL_CERT_REQS": "CERT_REQUIRED",
            "REDIS_SSL_CA_CERTS": "/etc/dify-certificates/ca.pem",
            "STORAGE_TYPE": "s3",
            "S3_ENDPOINT": f"http://{at}:9000",
            "S3_BUCKET_NAME": "files",
            "S3_ACCESS_KEY": self.access_key,
            "S3_SECRET_KEY": self.secret_key,
            "PLUGIN_STORAGE_TYPE": "aws_s3",
            "PLUGIN_STORAGE_OSS_BUCKET": "plugins",
            "PLUGIN_S3_ENDPOINT": f"http://{at}:9000",
            "PLUGIN_S3_USE_PATH_STYLE": "true",
            "PLUGIN_AWS_REGION": "us-east-1",
            "PLUGIN_AWS_ACCESS_KEY": self.access_key,
            "PLUGIN_AWS_SECRET_KEY": self.secret_key,
        }
        return "".join(f"{name}='{value}'\n" for name, value in {**right, **changed}.items() if value)


@pytest.fixture(scope="module")
def data(new_host: Callable[..., Host]) -> Data:
    return Data(new_host("data"))


def deployed(checkout: Checkout, data: Data, **changed: str) -> Run:
    """A run with right settings but for what is changed; no secret of a service elsewhere may be in what it prints."""
    checkout.write(".env", data.settings(**changed))
    checkout.knobs["ca_certificates"] = data.authority
    run = checkout.deploy("-vvv")
    for secret in (DB_PASSWORD, REDIS_PASSWORD, SENTINEL_PASSWORD, data.secret_key):
        assert secret not in run.output
    return run


def nothing_runs(host: Host) -> bool:
    return host.run("test -e /opt/dify/docker-compose.yaml || docker ps -aq | grep -q .").returncode != 0


def test_an_address_where_nobody_listens_is_refused_before_anything_is_changed(checkout: Checkout, data: Data) -> None:
    run = deployed(checkout, data, DB_PORT="5433", REDIS_HOST="cache.invalid")
    run.refused(f"DB_HOST: {data.host.address}:5433: Connection refused; is it up", "REDIS_HOST: cache.invalid:6380: ")
    assert checkout.hosts[0].run("command -v dockerd || test -e /opt/dify").returncode != 0


def test_wrong_secrets_are_named_before_anything_starts(checkout: Checkout, data: Data) -> None:
    names = ("DB_PASSWORD", "REDIS_PASSWORD", "S3_SECRET_KEY", "PLUGIN_AWS_ACCESS_KEY")
    wrong = dict.fromkeys(names, "wrong-for-sure")
    run = deployed(checkout, data, **wrong)
    run.failed(
        f"DB_PASSWORD: PostgreSQL at {data.host.address}:5432 refuses the login of 'dify'",
        f"REDIS_PASSWORD: Redis at {data.host.address}:6380 refuses the login of 'dify'",
        "S3_SECRET_KEY: bucket files at",
        "PLUGIN_AWS_ACCESS_KEY: bucket plugins at",
        "What ran before runs on.",
    )
    assert "wrong-for-sure" not in run.output
    assert nothing_runs(checkout.hosts[0])


def test_tls_that_is_not_asked_for_is_named(checkout: Checkout, data: Data) -> None:
    off = {"DB_EXTRAS": "", "REDIS_USE_SSL": "", "REDIS_SSL_CERT_REQS": "", "REDIS_SSL_CA_CERTS": ""}
    deployed(checkout, data, **off).failed(
        "takes encrypted connections only, and the plugin daemon opens none until it is told to: set DB_EXTRAS=sslmode=require",
        "takes TLS only: set REDIS_USE_SSL=true",
    )
    checkout.write(".env", data.settings())
    checkout.deploy(ca_certificates="").failed(
        "has a certificate that the plugin daemon does not accept", "the knob ca_certificates"
    )
    assert nothing_runs(checkout.hosts[0])


def test_the_statements_that_are_named_mend_it(checkout: Checkout, data: Data) -> None:
    run = deployed(checkout, data)
    run.failed("has no database dify_plugin, and 'dify' may not create it")
    (database,) = set(re.findall(r"CREATE DATABASE .*?;", run.output))
    (extension,) = set(re.findall(r"CREATE EXTENSION .*?;", run.output))
    (rights,) = set(re.findall(r"ACL SETUSER \w+(?: [+~&]\w+)+", run.output))
    assert database == 'CREATE DATABASE "dify_plugin" OWNER "dify";'
    assert extension == 'CREATE EXTENSION "uuid-ossp";'
    data.psql("postgres", database)
    data.psql("dify", extension)
    assert data.redis(rights) == "OK"
    assert nothing_runs(checkout.hosts[0])


def test_it_deploys_and_what_may_be_made_is_made(checkout: Checkout, data: Data) -> None:
    run = deployed(checkout, data).ok()
    run.says("to be made elsewhere: bucket plugins, extension uuid-ossp in database dify_plugin")
    assert "External services" in run.changed
    host = checkout.hosts[0]
    assert {"db_postgres", "redis"}.isdisjoint(containers(host))
    found = reached(host)
    assert found["database"]["detail"].startswith("database dify as dify on postgresql")
    assert "in bucket files" in found["storage"]["detail"]
    assert "storage" in found["plugin_daemon"]["detail"]
    assert int(data.psql("dify", "SELECT count(*) FROM accounts")) == 0


def test_the_second_run_is_silent(checkout: Checkout, data: Data) -> None:
    before = containers(checkout.hosts[0])
    assert deployed(checkout, data).ok().changed == []
    assert checkout.plan().ok().planned == []
    assert replaced(before, containers(checkout.hosts[0])) == set()


def test_a_plan_names_what_is_wrong_and_the_old_runs_on(checkout: Checkout, data: Data) -> None:
    before = containers(checkout.hosts[0])
    data.psql("postgres", "ALTER ROLE dify PASSWORD 'changed-on-the-other-side'")
    run = checkout.pyinfra("inventory.py", "deploy.py", "--dry")
    run.refused("nothing was changed:", "DB_PASSWORD: PostgreSQL at")
    data.psql("postgres", f"ALTER ROLE dify PASSWORD '{DB_PASSWORD}'")
    assert replaced(before, containers(checkout.hosts[0])) == set()


def test_redis_behind_a_sentinel(checkout: Checkout, data: Data) -> None:
    off = dict.fromkeys(("REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_USE_SSL", "REDIS_SSL_CERT_REQS"), "")
    sentinel = {"REDIS_SENTINELS": f"{data.host.address}:26379", "REDIS_SENTINEL_SERVICE_NAME": "dify"}
    deployed(checkout, data, **off, **sentinel).failed("REDIS_SENTINEL_PASSWORD: Sentinel at", "asks for a password")
    login = {"REDIS_SENTINEL_PASSWORD": SENTINEL_PASSWORD, "REDIS_SENTINEL_SOCKET_TIMEOUT": "2"}
    other = {**sentinel, **login, "REDIS_SENTINEL_SERVICE_NAME": "other"}
    deployed(checkout, data, **off, **other).failed(
        "REDIS_SENTINEL_SERVICE_NAME: Sentinel at", "knows no master 'other'"
    )
    deployed(checkout, data, **off, **sentinel, **login).ok()
    reached(checkout.hosts[0])
