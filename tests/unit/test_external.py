"""Services that run elsewhere: what the settings lead to, what contradicts itself, and how an error is said."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from stack import external, redis, storage
from stack.choices import VECTOR_STORES
from stack.requirements import Machine, failures
from stack.secrets import is_secret
from tasks import external as step
from tasks.migrate import Schema
from tasks.preflight import Found
from tests.unit.wanted import RELEASE, compose_of, refused, resolved, run_sh, settings_of, stack_of

DATABASE = {"DB_HOST": "db.lan", "DB_PASSWORD": "of-the-database"}
SENTINEL = {"REDIS_SENTINELS": "a.lan:26379,b.lan:26380", "REDIS_SENTINEL_SERVICE_NAME": "dify"}
BUCKET = {"STORAGE_TYPE": "s3", "S3_BUCKET_NAME": "files", "S3_ACCESS_KEY": "ak", "S3_SECRET_KEY": "of-the-bucket"}
PLUGIN_BUCKET = {
    "PLUGIN_STORAGE_TYPE": "aws_s3",
    "PLUGIN_STORAGE_OSS_BUCKET": "plugins",
    "PLUGIN_AWS_REGION": "eu-1",
    "PLUGIN_S3_ENDPOINT": "http://s3.lan:9000",
    "PLUGIN_AWS_ACCESS_KEY": "ak",
    "PLUGIN_AWS_SECRET_KEY": "of-the-plugins",
    "PLUGIN_S3_USE_PATH_STYLE": "true",
}
CA = "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n"


def only(checks: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [check for check in checks if check["kind"] == kind]
    return found


# --- Redis ---


def test_sentinels_are_found_by_all_three_clients() -> None:
    values = settings_of({**SENTINEL, "REDIS_PASSWORD": "p@ss", "REDIS_SENTINEL_PASSWORD": "asked"}).values
    broker = "sentinel://:p%40ss@a.lan:26379/1;sentinel://:p%40ss@b.lan:26380/1"
    assert values["CELERY_BROKER_URL"] == broker
    wanted = {
        "REDIS_USE_SENTINEL": "true",
        "CELERY_USE_SENTINEL": "true",
        "CELERY_SENTINEL_MASTER_NAME": "dify",
        "CELERY_SENTINEL_PASSWORD": "asked",
    }
    assert wanted.items() <= values.items()


def test_tls_counts_for_the_broker_too() -> None:
    values = settings_of({"REDIS_HOST": "cache.lan", "REDIS_USE_SSL": "true", "REDIS_USERNAME": "dify"}).values
    assert values["BROKER_USE_SSL"] == "true"
    assert values["CELERY_BROKER_URL"] == "rediss://dify:@cache.lan:6379/1"


def test_what_the_operator_gives_wins() -> None:
    given = {**SENTINEL, "CELERY_SENTINEL_MASTER_NAME": "queues", "CELERY_BROKER_URL": "sentinel://c.lan:1"}
    values = settings_of(given).values
    assert (values["CELERY_SENTINEL_MASTER_NAME"], values["CELERY_BROKER_URL"]) == ("queues", "sentinel://c.lan:1")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"REDIS_USE_CLUSTERS": "true"}, "plugin daemon does not speak to a Redis Cluster (daemon#475)"),
        ({"REDIS_CLUSTERS": "a:1,b:1"}, "plugin daemon does not speak to a Redis Cluster (daemon#475)"),
        ({"REDIS_USE_SENTINEL": "true"}, "needs REDIS_SENTINELS and REDIS_SENTINEL_SERVICE_NAME"),
        ({"REDIS_SENTINELS": "a.lan:26379"}, "needs REDIS_SENTINEL_SERVICE_NAME"),
        ({**SENTINEL, "REDIS_SENTINELS": "a.lan"}, "REDIS_SENTINELS: 'a.lan' is not host:port"),
        ({**SENTINEL, "REDIS_SENTINELS": "::1:26379"}, "REDIS_SENTINELS=::1:26379: must be host:port"),
        ({**SENTINEL, "REDIS_HOST": "cache.lan"}, "REDIS_HOST=cache.lan: is not read when"),
        ({**SENTINEL, "REDIS_USE_SSL": "true"}, "speak no TLS to a Redis behind Sentinels"),
        ({**SENTINEL, "REDIS_USE_SENTINEL": "false"}, "REDIS_USE_SENTINEL=false: contradicts REDIS_SENTINELS"),
        ({**SENTINEL, "CELERY_USE_SENTINEL": "false"}, "CELERY_USE_SENTINEL=false: contradicts REDIS_SENTINELS"),
        ({"REDIS_USE_SSL": "true"}, "REDIS_USE_SSL=true: contradicts REDIS_HOST"),
    ],
)
def test_what_no_client_of_redis_could_make_sense_of(given: dict[str, str], said: str) -> None:
    (line,) = refused(lambda: settings_of(given))
    assert said in line


# --- The database ---


@pytest.mark.parametrize(
    ("extras", "mode"),
    [
        ("", ""),
        ("sslmode=require", "require"),
        ("keepalives=1&sslmode=verify-full&sslrootcert=/x", "require"),
        ("sslmode=disable", ""),
        ("sslmode=prefer", ""),
        ("ssl_ca=/x", "require"),
    ],
)
def test_the_daemon_is_told_of_tls_under_its_own_name(extras: str, mode: str) -> None:
    given = {
        **DATABASE,
        "DB_EXTRAS": extras,
        "DB_TYPE": "mysql" if "ssl_" in extras else "postgresql",
        "DB_USERNAME": "x",
    }
    stack = stack_of(given)
    environment = resolved(stack)["services"]
    assert environment["plugin_daemon"]["environment"].get("DB_SSL_MODE", "") == mode
    assert environment["api"]["environment"].get("DB_EXTRAS", "") == extras


def test_the_daemon_gets_of_the_extras_what_a_server_understands() -> None:
    stack = stack_of({**DATABASE, "DB_EXTRAS": "sslmode=require&options=-c search_path=$user", "DB_CHARSET": "utf8"})
    services = resolved(stack)["services"]
    assert services["plugin_daemon"]["environment"]["DB_EXTRAS"] == "options=-c search_path=$user"
    for name in ("api", "worker", "worker_beat"):
        environment = services[name]["environment"]
        assert environment["DB_EXTRAS"] == "sslmode=require&options=-c search_path=$user"
        assert environment["DB_CHARSET"] == "utf8"
    tls_only = stack_of({**DATABASE, "DB_EXTRAS": "sslmode=require"})
    assert "DB_EXTRAS" not in resolved(tls_only)["services"]["plugin_daemon"]["environment"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"DB_TYPE": "mysql", "DB_CHARSET": "utf8"}, "DB_CHARSET=utf8: is for PostgreSQL only, and DB_TYPE is mysql"),
        ({"DB_SSL_MODE": "verify-full"}, "DB_SSL_MODE=verify-full: must be one of disable, require"),
        ({"DB_EXTRAS": "require"}, "DB_EXTRAS: not name=value"),
        ({"DB_HOST": "127.0.0.1", "DB_PASSWORD": "x"}, "DB_HOST=127.0.0.1: inside a container that is the container"),
        ({"REDIS_HOST": "localhost"}, "REDIS_HOST=localhost: inside a container"),
        ({**BUCKET, "S3_ENDPOINT": "http://127.0.0.1:9000"}, "S3_ENDPOINT=http://127.0.0.1:9000: inside a container"),
    ],
)
def test_what_cannot_work(given: dict[str, str], said: str) -> None:
    (line,) = refused(lambda: settings_of(given))
    assert said in line


def test_a_password_of_somebody_elses_service_may_change() -> None:
    kept = {"DB_PASSWORD": "before", "SECRET_KEY": "s" * 40}
    assert settings_of(DATABASE, kept)["DB_PASSWORD"] == "of-the-database"
    (line,) = refused(lambda: settings_of({"DB_PASSWORD": "after"}, kept))
    assert "DB_PASSWORD: differs from the one in" in line


def test_the_password_of_the_container_does_not_go_to_a_redis_elsewhere() -> None:
    values = settings_of({"REDIS_HOST": "cache.lan"}, {"REDIS_PASSWORD": "of-the-container"}).values
    assert "of-the-container" not in json.dumps(values)


# --- What upstream's Compose file forgets ---


def test_forgotten_settings_reach_nobody_who_did_not_ask() -> None:
    forgotten = {name for name, setting in RELEASE.settings.items() if setting.forgotten}
    assert {"DB_EXTRAS", "DB_CHARSET", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} <= forgotten
    text = json.dumps(compose_of(stack_of())["x-shared-env"])
    assert [name for name in forgotten if f'"{name}"' in text] == []


def test_proxies_reach_the_backend_and_every_service_is_reached_without() -> None:
    stack = stack_of({"HTTPS_PROXY": "http://me:of-the-proxy@proxy.lan:3128", "NO_PROXY": "s3.lan,api"})
    services = resolved(stack)["services"]
    for name in ("api", "worker", "worker_beat", "plugin_daemon"):
        environment = services[name]["environment"]
        assert environment["HTTPS_PROXY"] == "http://me:of-the-proxy@proxy.lan:3128"
        reached = environment["NO_PROXY"].split(",")
        assert reached[:2] == ["s3.lan", "api"]
        assert {"localhost", *services} <= set(reached)
        assert len(reached) == len(set(reached))
    assert services["sandbox"]["environment"]["HTTPS_PROXY"] == "http://ssrf_proxy:3128"
    assert "http://me:of-the-proxy@proxy.lan:3128" in stack.settings.secrets


def test_an_authority_of_ones_own_is_where_settings_can_name_it() -> None:
    stack = stack_of(ca_certificates=CA)
    assert stack.files["certificates/ca.pem"].data.decode() == CA
    services = resolved(stack)["services"]
    for name in ("api", "worker", "worker_beat", "plugin_daemon"):
        assert f"./certificates:{external.CERTIFICATES}:ro" in services[name]["volumes"]
    assert services["plugin_daemon"]["environment"]["SSL_CERT_DIR"].endswith(f":{external.CERTIFICATES}")
    assert external.CERTIFICATES not in stack_of().files["docker-compose.yaml"].data.decode()
    (line,) = refused(lambda: stack_of(ca_certificates="ca.pem"))
    assert line.startswith("ca_certificates")


# --- Object storage ---


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in storage.TYPES.items() for kind in kinds])
def test_each_kind_of_storage_says_what_it_must_be_told(name: str, kind: str) -> None:
    needed = storage.TYPES[name][kind]
    assert set(needed) <= set(RELEASE.settings)
    if not needed:
        assert list(storage.contradictions(RELEASE, {name: kind})) == []
        return
    (line,) = storage.contradictions(RELEASE, {name: kind})
    assert line.startswith(f"{name}={kind}: ")
    told = dict.fromkeys(line.partition(": ")[2].removesuffix(" must be given").split(", "), "of-mine")
    assert list(storage.contradictions(RELEASE, {name: kind, **told})) == []


def test_a_kind_that_is_none() -> None:
    lines = storage.contradictions(RELEASE, {"STORAGE_TYPE": "S3", "PLUGIN_STORAGE_TYPE": "s3"})
    assert [line.partition("; did")[0] for line in lines] == [
        f"STORAGE_TYPE=S3: not offered; allowed: {', '.join(sorted(storage.API))}",
        f"PLUGIN_STORAGE_TYPE=s3: not offered; allowed: {', '.join(sorted(storage.PLUGIN))}",
    ]


def test_a_role_of_the_machine_needs_no_keys() -> None:
    given = {"STORAGE_TYPE": "s3", "S3_BUCKET_NAME": "files", "S3_USE_AWS_MANAGED_IAM": "true"}
    (bucket,) = storage.buckets(external._All(settings_of(given)))
    assert (bucket["access_key"], bucket["secret_key"], bucket["endpoint"]) == ("", "", "")


# --- Where they are ---


@pytest.mark.parametrize(
    ("given", "places"),
    [
        ({}, []),
        (DATABASE, ["DB_HOST db.lan 5432"]),
        ({**DATABASE, "DB_TYPE": "mysql", "DB_USERNAME": "dify"}, ["DB_HOST db.lan 3306"]),
        ({"REDIS_HOST": "cache.lan", "REDIS_PORT": "6380"}, ["REDIS_HOST cache.lan 6380"]),
        (SENTINEL, ["REDIS_SENTINELS a.lan 26379", "REDIS_SENTINELS b.lan 26380"]),
        ({**BUCKET, "S3_ENDPOINT": "https://s3.lan"}, ["S3_ENDPOINT s3.lan 443"]),
        ({**BUCKET, "S3_ENDPOINT": "https://s3.lan", "HTTPS_PROXY": "http://proxy.lan:3128"}, []),
        (PLUGIN_BUCKET, ["PLUGIN_S3_ENDPOINT s3.lan 9000"]),
        ({"VECTOR_STORE": "qdrant", "QDRANT_URL": "https://q.lan:6333/x"}, ["QDRANT_URL q.lan 6333"]),
        ({"VECTOR_STORE": "chroma", "CHROMA_HOST": "c.lan"}, ["CHROMA_HOST c.lan 8000"]),
        (
            {"VECTOR_STORE": "pgvector", "PGVECTOR_HOST": "v.lan", "PGVECTOR_PASSWORD": "x"},
            ["PGVECTOR_HOST v.lan 5432"],
        ),
        ({"VECTOR_STORE": "oracle", "ORACLE_DSN": "o.lan:1521/X", "ORACLE_PASSWORD": "x"}, ["ORACLE_DSN o.lan 1521"]),
        (
            {
                "VECTOR_STORE": "couchbase",
                "COUCHBASE_CONNECTION_STRING": "couchbases://c.lan",
                "COUCHBASE_PASSWORD": "x",
            },
            ["COUCHBASE_CONNECTION_STRING c.lan 11207"],
        ),
        (
            {
                "VECTOR_STORE": "huawei_cloud",
                "HUAWEI_CLOUD_HOSTS": "https://a.lan:9200,https://b.lan:9200",
                "HUAWEI_CLOUD_USER": "x",
                "HUAWEI_CLOUD_PASSWORD": "x",
            },
            ["HUAWEI_CLOUD_HOSTS a.lan 9200", "HUAWEI_CLOUD_HOSTS b.lan 9200"],
        ),
        (
            {"ETL_TYPE": "Unstructured", "UNSTRUCTURED_API_URL": "http://u.lan:8000/x"},
            ["UNSTRUCTURED_API_URL u.lan 8000"],
        ),
    ],
)
def test_where_services_are(given: dict[str, str], places: list[str]) -> None:
    assert [f"{p.setting} {p.host} {p.port}" for p in external.places(settings_of(given))] == places


@pytest.mark.parametrize("store", sorted(VECTOR_STORES))
def test_every_vector_store_elsewhere_is_tried(store: str) -> None:
    choice = VECTOR_STORES[store]
    given = {name: f"given-{name.lower()}" for name in choice.needed}
    scheme = {"WEAVIATE_GRPC_ENDPOINT": "grpc", "COUCHBASE_CONNECTION_STRING": "couchbase"}
    given |= {name: f"{scheme.get(name, 'http')}://store.lan:7000" for name in choice.where}
    for name in choice.where:
        if name.endswith("_HOST") and store != "elasticsearch-ja":
            given[name] = "store.lan"
    checks = external.checks(settings_of({**given, "VECTOR_STORE": store}))
    if choice.where[0].endswith(("_ID", "_INSTANCE")):
        assert checks == []
    else:
        assert "store.lan" in json.dumps(checks)


def test_the_host_looks_before_anything_is_changed() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as server:
            listening = server.getsockname()[1]
            command = Found().command(
                "/nonexistent", "x", (f"DB_HOST 127.0.0.1 {closed}", f"REDIS_HOST 127.0.0.1 {listening}")
            )
            machine = Found().process(run_sh(str(command)).stdout.splitlines())
    assert machine.unreachable == (f"DB_HOST: 127.0.0.1:{closed}: Connection refused",)
    (line,) = [line for line in failures(machine, stack_of(DATABASE), {}) if "refused" in line]
    assert line.startswith(f"DB_HOST: 127.0.0.1:{closed}: Connection refused; is it up")


def test_nothing_elsewhere_is_nothing_to_try() -> None:
    assert external.checks(settings_of()) == []
    assert Machine().unreachable == ()


# --- What is sent to the container ---


def test_no_secret_is_in_an_argument() -> None:
    stack = stack_of({**DATABASE, "REDIS_HOST": "cache.lan", "REDIS_PASSWORD": "of-the-cache", **BUCKET})
    command = str(step._command(stack))
    for name, value in stack.settings.values.items():
        if is_secret(name) and len(value) > 3:
            assert value not in command


def test_what_is_fed_to_the_container_runs_there_by_itself() -> None:
    """With nothing of this project to import: as in a container that has Python only."""
    settings = settings_of()
    checks = [{"kind": "tcp", "setting": "DB_HOST", "host": "127.0.0.1", "port": 1}]
    done = run_sh(
        f"cd / && exec /usr/bin/env python3 -S -c '{step.START}'", step.program(settings, checks, create=False)
    )
    problem = "DB_HOST: 127.0.0.1:1: connection refused; is it up, and does its firewall let this host in?"
    assert json.loads(done.stdout) == {"problems": [problem], "missing": [], "made": []}


def test_a_host_without_the_image_says_so(tmp_path: Any) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\n# A stand-in for a Docker that has no images.\nexit 1\n")
    docker.chmod(0o755)
    assert run_sh(str(step._command(stack_of(DATABASE))), "unread", tmp_path).stdout == "absent\n"


def test_the_container_is_thrown_away_and_logs_nothing(tmp_path: Any) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/sh\n# A stand-in for Docker that tells what it was asked for.\n[ "$1" = image ] || printf "%s\\n" "$@"\n'
    )
    docker.chmod(0o755)
    words = run_sh(str(step._command(stack_of(DATABASE))), "unread", tmp_path).stdout.splitlines()
    assert words[:2] == ["run", "--rm"]
    assert words[words.index("--log-driver") :][:2] == ["--log-driver", "none"]
    assert words[words.index("--entrypoint") :][:3] == ["--entrypoint", "python3", stack_of().services["api"].image]


def test_sentinels_are_given_one_by_one() -> None:
    assert redis.nodes({"REDIS_SENTINELS": " a:1 ,b:2,"}) == ["a:1", "b:2"]
    check = only(external.checks(settings_of(SENTINEL)), "redis")
    assert (check["sentinels"], check["master"]) == (["a.lan:26379", "b.lan:26380"], "dify")


def test_the_daemons_bucket_is_reached_as_the_daemon_does() -> None:
    check = only(external.checks(settings_of(PLUGIN_BUCKET)), "s3")
    assert (check["style"], check["user"], check["secret_key"]) == ("path", "the plugin daemon", "of-the-plugins")


def test_another_database_is_not_taken_for_the_migrated_one(tmp_path: Any) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n# A stand-in for Docker that knows one image.\n[ "$1" = ps ] || echo sha256:a\n')
    docker.chmod(0o755)
    schema, same = Schema(), {"root": str(tmp_path), "project": "dify", "image": "api"}

    def is_current(place: str) -> bool:
        return schema.process(
            run_sh(str(schema.command(place=place, **same)), path=tmp_path).stdout.splitlines()
        ).is_current

    (tmp_path / ".migrated").write_text("sha256:a 288345cd01d1\n")
    assert (is_current(""), is_current("db.lan:5432/dify")) == (True, False)
    (tmp_path / ".migrated").write_text("sha256:a 288345cd01d1\ndb.lan:5432/dify\n")
    assert (is_current(""), is_current("db.lan:5432/dify"), is_current("new.lan:5432/dify")) == (False, True, False)
