"""Databases, and vector stores that are one: their services as they are rendered."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from stack.render import Folder, Stack
from stack.secrets import is_secret
from tests.unit.wanted import BACKEND, CORE, PUBLISHED, RELEASE, compose_of, leaves, refused, resolved, stack_of

NASTY = "p@ss:w/rd#$%'\" A1\\"
# What Dify itself breaks, by putting the password into a URL as it is.
UNTAKEN = {"PGVECTO_RS_PASSWORD": "@%", "MATRIXONE_PASSWORD": "@%"}
# What the operator sets, the services that it brings up, and the secrets that these read.
CHOICES: dict[str, tuple[dict[str, str], dict[str, set[str]]]] = {
    "mysql": ({"DB_TYPE": "mysql"}, {"db_mysql": {"DB_PASSWORD"}}),
    "oceanbase database": ({"DB_TYPE": "oceanbase"}, {"oceanbase": {"OCEANBASE_VECTOR_PASSWORD"}}),
    "seekdb database": ({"DB_TYPE": "seekdb"}, {"seekdb": {"OCEANBASE_VECTOR_PASSWORD"}}),
    "oceanbase": ({"VECTOR_STORE": "oceanbase"}, {"oceanbase": {"OCEANBASE_VECTOR_PASSWORD"}}),
    "seekdb": ({"VECTOR_STORE": "seekdb"}, {"seekdb": {"OCEANBASE_VECTOR_PASSWORD"}}),
    "seekdb twice": (
        {"DB_TYPE": "seekdb", "VECTOR_STORE": "seekdb"},
        {"seekdb": {"OCEANBASE_VECTOR_PASSWORD"}},
    ),
    "pgvector": ({"VECTOR_STORE": "pgvector"}, {"pgvector": {"PGVECTOR_POSTGRES_PASSWORD"}}),
    "pgvecto-rs": ({"VECTOR_STORE": "pgvecto-rs"}, {"pgvecto-rs": {"PGVECTO_RS_PASSWORD"}}),
    "vastbase": ({"VECTOR_STORE": "vastbase"}, {"vastbase": {"VASTBASE_PASSWORD"}}),
    "iris": ({"VECTOR_STORE": "iris"}, {"iris": {"IRIS_PASSWORD"}}),
    "oracle": ({"VECTOR_STORE": "oracle"}, {"oracle": {"ORACLE_PWD", "ORACLE_PASSWORD"}}),
    "opengauss": ({"VECTOR_STORE": "opengauss"}, {"opengauss": {"OPENGAUSS_PASSWORD"}}),
    "myscale": ({"VECTOR_STORE": "myscale"}, {"myscale": {"MYSCALE_PASSWORD"}}),
    "matrixone": (
        {"VECTOR_STORE": "matrixone"},
        {"matrixone": set(), "matrixone_init": {"MATRIXONE_PASSWORD"}},
    ),
}
SERVICES = [(choice, service) for choice, (_, services) in CHOICES.items() for service in services]
STAYING = [(choice, service) for choice, service in SERVICES if service != "matrixone_init"]


def chosen(choice: str, **given: str) -> Stack:
    return stack_of({**CHOICES[choice][0], **given})


def block(choice: str, service: str, **given: str) -> dict[str, Any]:
    found = resolved(chosen(choice, **given))["services"][service]
    assert isinstance(found, dict)
    return found


# --- The services ---


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_brings_up_its_services_and_no_other(choice: str) -> None:
    given, services = CHOICES[choice]
    replaced = {"DB_TYPE": "db_postgres", "VECTOR_STORE": "weaviate"}
    assert set(chosen(choice).services) == (CORE - {replaced[name] for name in given}) | services.keys()


@pytest.mark.parametrize(("choice", "service"), SERVICES)
def test_a_secret_is_required_and_no_other_is_read(choice: str, service: str) -> None:
    text = json.dumps(compose_of(chosen(choice))["services"][service])
    read = {name for name in re.findall(r"\$\{(\w+)", text) if is_secret(name)}
    assert read == CHOICES[choice][1][service]
    assert all(f"${{{name}:?is missing in .env}}" in text for name in read)


@pytest.mark.parametrize("choice", CHOICES)
def test_what_is_not_chosen_shows_no_published_secret_either(choice: str) -> None:
    """All services are in the file, whatever was chosen."""
    text = json.dumps(compose_of(chosen(choice))["services"])
    for name in re.findall(r"\$\{(\w+):-[^}]", text):
        assert not is_secret(name)


@pytest.mark.parametrize(("choice", "service"), SERVICES)
def test_nothing_published_runs(choice: str, service: str) -> None:
    found = chosen(choice)
    folder = "matrixone" if service == "matrixone_init" else service
    mounted = [f.data.decode() for path, f in found.files.items() if path.startswith(f"{folder}/")]
    values = [*leaves(resolved(found)["services"][service])]
    # Names that are nobody's secret (a database, a cluster), and MatrixOne's 111, which has to be replaced.
    known = set(PUBLISHED.values()) - {"dify", "difyai", "111"}
    assert [value for value in known if value in values] == []
    spelled = "\n".join([*values, *mounted])
    assert [value for value in known if len(value) > len("password") and value in spelled] == []


@pytest.mark.parametrize(
    ("choice", "service", "given", "name"),
    [
        ("mysql", "db_mysql", "DB_PASSWORD", "MYSQL_ROOT_PASSWORD"),
        ("oceanbase", "oceanbase", "OCEANBASE_VECTOR_PASSWORD", "OB_TENANT_PASSWORD"),
        ("oceanbase database", "oceanbase", "DB_PASSWORD", "OB_TENANT_PASSWORD"),
        ("seekdb", "seekdb", "OCEANBASE_VECTOR_PASSWORD", "ROOT_PASSWORD"),
        ("seekdb database", "seekdb", "DB_PASSWORD", "ROOT_PASSWORD"),
        ("pgvector", "pgvector", "PGVECTOR_PASSWORD", "POSTGRES_PASSWORD"),
        ("pgvecto-rs", "pgvecto-rs", "PGVECTO_RS_PASSWORD", "POSTGRES_PASSWORD"),
        ("vastbase", "vastbase", "VASTBASE_PASSWORD", "VB_PASSWORD"),
        ("iris", "iris", "IRIS_PASSWORD", "IRIS_PASSWORD"),
        ("opengauss", "opengauss", "OPENGAUSS_PASSWORD", "GS_PASSWORD"),
        ("myscale", "myscale", "MYSCALE_PASSWORD", "MYSCALE_PASSWORD"),
        ("matrixone", "matrixone_init", "MATRIXONE_PASSWORD", "MATRIXONE_PASSWORD"),
    ],
)
def test_any_password_reaches_the_service_by_its_environment_alone(
    choice: str, service: str, given: str, name: str
) -> None:
    password = NASTY.translate({ord(sign): None for sign in UNTAKEN.get(given, "")})
    stack = chosen(choice, **{given: password})
    found = resolved(stack)["services"][service]
    assert found["environment"][name] == password
    assert resolved(stack)["services"]["api"]["environment"][given] == password
    shown = json.dumps({key: value for key, value in found.items() if key != "environment"})
    assert password[:4] not in shown
    assert [path for path, file in stack.files.items() if path != ".env" and password[:4].encode() in file.data] == []


@pytest.mark.parametrize("name", ["ORACLE_PWD", "ORACLE_PASSWORD"])
def test_oracle_takes_any_password_without_a_double_quote(name: str) -> None:
    (line,) = refused(lambda: chosen("oracle", **{name: NASTY}))
    assert line.endswith(f'{name}: VECTOR_STORE=oracle cannot take " in it; give it another value')
    other = NASTY.replace('"', "")
    service = "SYSTEM_PASSWORD" if name == "ORACLE_PWD" else "DIFY_PASSWORD"
    assert block("oracle", "oracle", **{name: other})["environment"][service] == other


def test_an_oracle_that_runs_elsewhere_is_not_ours_to_judge() -> None:
    chosen("oracle", ORACLE_DSN="db.lan:1521/X", ORACLE_PASSWORD=NASTY)


@pytest.mark.parametrize(("choice", "service"), STAYING)
def test_a_service_says_what_it_needs(choice: str, service: str) -> None:
    needs = chosen(choice).services[service].needs
    assert needs.memory >= 256 * 1024**2
    assert needs.ports
    assert needs.architectures == (("amd64",) if service in ("vastbase", "iris", "myscale") else ("amd64", "arm64"))


@pytest.mark.parametrize(("choice", "service"), STAYING)
def test_a_service_that_stays_is_checked_and_comes_back(choice: str, service: str) -> None:
    found = block(choice, service)
    assert found["restart"] == "always"
    assert {"test", "interval", "timeout", "retries", "start_period", "start_interval"} == found["healthcheck"].keys()
    assert not {"ports", "container_name", "build", "privileged"} & found.keys()


@pytest.mark.parametrize(("choice", "service"), SERVICES)
def test_all_data_is_below_volumes_and_all_else_is_read_only(choice: str, service: str) -> None:
    stack = chosen(choice)
    sent = {path.partition("/")[0] for path in stack.files}
    for volume in block(choice, service).get("volumes", []):
        source, _, rest = volume.partition(":")
        if not source.startswith("./volumes/"):
            assert rest.endswith(":ro")
            assert source.removeprefix("./") in sent


@pytest.mark.parametrize(
    ("choice", "folder"),
    [
        ("oracle", Folder("volumes/oracle/oradata", None, 54321)),
        ("iris", Folder("volumes/iris", None, 51773)),
        ("matrixone", Folder("volumes/matrixone/ready", 1001, None)),
    ],
)
def test_a_container_that_is_not_root_can_write_its_folder(choice: str, folder: Folder) -> None:
    assert folder in chosen(choice).folders


# --- Files of their own ---


@pytest.mark.parametrize("choice", CHOICES)
def test_only_chosen_services_send_their_files(choice: str) -> None:
    services = {service for _, services in CHOICES.values() for service in services}
    sent = {path.partition("/")[0] for path in chosen(choice).files}
    assert sent & services <= CHOICES[choice][1].keys()
    assert {"nginx", "ssrf_proxy", "volumes"} <= sent


def test_a_changed_script_recreates_the_container_that_mounts_it_and_no_other(templates: Any) -> None:
    def digests() -> dict[str, str]:
        return {name: service.digest for name, service in chosen("pgvector").services.items()}

    before = digests()
    with (templates / "pgvector/start.sh.j2").open("a") as script:
        script.write("# changed\n")
    assert {name for name, digest in digests().items() if digest != before[name]} == {"pgvector"}


# --- What each one is told ---


def test_mysql_takes_its_limits_from_the_settings() -> None:
    assert block("mysql", "db_mysql")["command"].split() == [
        "--max_connections=1000",
        "--innodb_buffer_pool_size=512M",
        "--innodb_log_file_size=128M",
        "--innodb_flush_log_at_trx_commit=2",
    ]
    assert "--max_connections=77" in block("mysql", "db_mysql", MYSQL_MAX_CONNECTIONS="77")["command"]


def test_mysql_lies_where_the_operator_says() -> None:
    assert Folder("volumes/mysql/data") in chosen("mysql").folders
    moved = chosen("mysql", MYSQL_HOST_VOLUME="/srv/mysql")
    assert "/srv/mysql:/var/lib/mysql" in resolved(moved)["services"]["db_mysql"]["volumes"]
    assert Folder("volumes/mysql/data") not in moved.folders


@pytest.mark.parametrize("choice", ["mysql", "oceanbase database", "seekdb database"])
def test_dify_waits_for_its_database(choice: str) -> None:
    (service,) = CHOICES[choice][1]
    for name in BACKEND:
        waits = compose_of(chosen(choice))["services"][name]["depends_on"]
        assert waits[service] == {"condition": "service_healthy", "required": False}


@pytest.mark.parametrize(
    ("choice", "given", "databases"),
    [
        ("oceanbase", {}, "test"),
        ("oceanbase", {"OCEANBASE_VECTOR_DATABASE": "vectors"}, "vectors"),
        ("oceanbase database", {}, "test dify dify_plugin"),
        ("oceanbase database", {"DB_DATABASE": "a", "DB_PLUGIN_DATABASE": "b"}, "test a b"),
        ("seekdb", {}, "test"),
        ("seekdb database", {}, "test dify dify_plugin"),
        ("seekdb twice", {"DB_DATABASE": "a"}, "test a dify_plugin"),
    ],
)
def test_the_databases_that_dify_needs_are_named(choice: str, given: dict[str, str], databases: str) -> None:
    (service,) = CHOICES[choice][1]
    assert block(choice, service, **given)["environment"]["DATABASES"] == databases


@pytest.mark.parametrize(
    ("choice", "kind"),
    [("mysql", "mysql"), ("oceanbase database", "mysql"), ("seekdb database", "mysql"), ("oceanbase", "postgresql")],
)
def test_the_plugin_daemon_knows_the_protocol_of_its_database(choice: str, kind: str) -> None:
    services = resolved(chosen(choice))["services"]
    assert services["plugin_daemon"]["environment"]["DB_TYPE"] == kind
    assert services["api"]["environment"]["DB_TYPE"] == CHOICES[choice][0].get("DB_TYPE", "postgresql")


@pytest.mark.parametrize(
    ("choice", "setting", "given", "gibibytes"),
    [
        ("oceanbase", "OCEANBASE_MEMORY_LIMIT", "", 6),
        ("oceanbase", "OCEANBASE_MEMORY_LIMIT", "10G", 10),
        ("oceanbase", "OCEANBASE_MEMORY_LIMIT", "8192mb", 8),
        ("seekdb", "SEEKDB_MEMORY_LIMIT", "", 2),
        ("seekdb", "SEEKDB_MEMORY_LIMIT", "4g", 4),
    ],
)
def test_what_may_be_taken_is_what_is_needed(choice: str, setting: str, given: str, gibibytes: int) -> None:
    found = chosen(choice, **({setting: given} if given else {}))
    assert found.services[choice].needs.memory == gibibytes * 1024**3


def test_the_postgresql_stores_have_their_own_user_and_database() -> None:
    given = {"PGVECTO_RS_USER": "u", "PGVECTO_RS_DATABASE": "d", "PGVECTOR_PGUSER": "other"}
    found = block("pgvecto-rs", "pgvecto-rs", **given)["environment"]
    assert (found["POSTGRES_USER"], found["PGUSER"], found["POSTGRES_DB"]) == ("u", "u", "d")
    given = {"PGVECTOR_USER": "u", "PGVECTOR_DATABASE": "d"}
    found = block("pgvector", "pgvector", **given)["environment"]
    assert (found["POSTGRES_USER"], found["PGUSER"], found["POSTGRES_DB"]) == ("u", "u", "d")


def test_vastbase_is_made_with_the_settings_that_dify_uses() -> None:
    found = block("vastbase", "vastbase", VASTBASE_USER="u", VASTBASE_DATABASE="d")["environment"]
    assert (found["VB_USERNAME"], found["VB_DB"]) == ("u", "d")


def test_opengauss_listens_where_dify_looks() -> None:
    assert block("opengauss", "opengauss")["environment"]["GS_PORT"] == "6600"
    found = chosen("opengauss", OPENGAUSS_PORT="6601")
    assert resolved(found)["services"]["opengauss"]["environment"]["GS_PORT"] == "6601"
    assert found.services["opengauss"].needs.ports == {"": 6601}


def test_the_data_of_iris_outlives_its_container() -> None:
    found = block("iris", "iris")
    assert "./volumes/iris:/durable" in found["volumes"]
    assert found["environment"]["ISC_DATA_DIRECTORY"].startswith("/durable/")


def test_oracle_does_not_get_its_password_as_the_image_would_pass_it_on() -> None:
    assert "ORACLE_PWD" not in block("oracle", "oracle")["environment"]


def test_matrixone_is_not_well_before_its_passwords_are_its_own() -> None:
    stack = chosen("matrixone")
    assert stack.services["matrixone_init"].one_shot
    assert stack.services["matrixone_init"].image == RELEASE.images["api"]
    assert "/ready/password-set" in str(block("matrixone", "matrixone")["healthcheck"])
    shared = "./volumes/matrixone/ready:/ready"
    assert shared in block("matrixone", "matrixone_init")["volumes"]
    assert f"{shared}:ro" in block("matrixone", "matrixone")["volumes"]


@pytest.mark.parametrize(
    ("choice", "name"), [("pgvecto-rs", "PGVECTO_RS_PASSWORD"), ("matrixone", "MATRIXONE_PASSWORD")]
)
def test_a_password_that_dify_would_break_in_its_url_is_refused(choice: str, name: str) -> None:
    (line,) = refused(lambda: chosen(choice, **{name: NASTY}))
    assert f"{name}: VECTOR_STORE={choice} cannot take @ or % in it; give it another value" in line
