"""python -m stack explain, settings, check and docs, as an operator types them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stack import explain, pages, release
from stack.__main__ import main
from stack.readers import readers
from stack.release import Release
from stack.secrets import published
from stack.settings import Knobs
from tests.unit.wanted import RELEASE, REPOSITORY

SECRET = "QXZJKV0123456789"


class Operator:
    """An operator's folder, and the commands typed in it."""

    def __init__(self, folder: Path, shown: pytest.CaptureFixture[str]) -> None:
        self.folder, self._shown = folder, shown
        self.write("group_data/all.py", (REPOSITORY / "group_data/all.py").read_text())
        self.write("inventory.py", 'dify = ["web1", ("web2", {"LOG_LEVEL": "ERROR"})]\n')

    def write(self, path: str, text: str) -> None:
        (self.folder / path).parent.mkdir(exist_ok=True)
        (self.folder / path).write_text(text)

    def types(self, command: str, *words: str) -> tuple[int, str, str]:
        """Exit code, output and errors."""
        inventory = ["--inventory", str(self.folder / "inventory.py")] if command in ("explain", "check") else []
        code = main([command, *inventory, *words])
        shown = self._shown.readouterr()
        return code, shown.out, shown.err

    def reads(self, command: str, *words: str) -> str:
        """The output of a command that ends well."""
        code, out, err = self.types(command, *words)
        assert (code, err) == (0, "")
        return out


@pytest.fixture
def operator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Operator:
    return Operator(tmp_path, capsys)


def squeezed(text: str) -> list[str]:
    """The lines, each run of spaces as one."""
    return [re.sub(" +", " ", line).strip() for line in text.splitlines()]


# --- explain NAME ---


def test_each_layer_that_says_something_is_shown_and_the_one_that_counts_is_marked(operator: Operator) -> None:
    operator.write(".env", "# why\nLOG_LEVEL=DEBUG\n")
    operator.write("env/dify.env", "LOG_LEVEL=WARNING\n")
    assert squeezed(operator.reads("explain", "LOG_LEVEL")) == [
        "LOG_LEVEL",
        "may be one of DEBUG, INFO, WARNING, ERROR, CRITICAL",
        "default INFO",
        "read by api, worker, worker_beat, plugin_daemon",
        f"releases {', '.join(release.versions())}",
        "",
        "web1:",
        "comes from value",
        "Dify 1.11.4 INFO",
        ".env line 2 DEBUG",
        "-> env/dify.env line 1 WARNING",
        "",
        "web2:",
        "comes from value",
        "Dify 1.11.4 INFO",
        ".env line 2 DEBUG",
        "env/dify.env line 1 WARNING",
        "-> inventory.py line 1 ERROR",
    ]


def test_one_host_is_enough(operator: Operator) -> None:
    assert "web2" not in operator.reads("explain", "LOG_LEVEL", "--host", "web1")


@pytest.mark.parametrize("typed", ["LOG_LEVEL", "log_level", "Log_Level"])
def test_a_name_may_be_typed_in_any_case(operator: Operator, typed: str) -> None:
    assert operator.reads("explain", typed).startswith("LOG_LEVEL\n")


def test_what_is_typed_counts_most(operator: Operator) -> None:
    assert "-> --data DEBUG" in squeezed(operator.reads("explain", "LOG_LEVEL", "--data", "LOG_LEVEL=DEBUG"))


def test_an_empty_value_is_shown_and_does_not_count(operator: Operator) -> None:
    operator.write("env/web1.env", "LOG_LEVEL=\n")
    said = squeezed(operator.reads("explain", "LOG_LEVEL", "--host", "web1"))
    assert said[-2:] == ["-> Dify 1.11.4 INFO", "env/web1.env line 1 (empty: as if it were not there)"]


def test_a_derived_value_is_shown_as_derived(operator: Operator) -> None:
    said = squeezed(operator.reads("explain", "COMPOSE_PROFILES", "--host", "web1"))
    assert said[-1].startswith("-> derived postgresql,weaviate")


def test_secrets_are_not_shown(operator: Operator) -> None:
    operator.write(".env", f"DB_PASSWORD={SECRET}\nSMTP_PASSWORD={SECRET}\nHTTP_PROXY=http://me:{SECRET}@proxy:3128\n")
    for name in ("DB_PASSWORD", "SMTP_PASSWORD", "HTTP_PROXY"):
        said = squeezed(operator.reads("explain", name, "--host", "web1"))
        assert said[-1] == f"-> .env line {('DB_PASSWORD', 'SMTP_PASSWORD', 'HTTP_PROXY').index(name) + 1} (secret)"
    assert SECRET not in operator.reads("explain")


def test_a_secret_that_the_host_makes_is_said_to_be_there(operator: Operator) -> None:
    said = squeezed(operator.reads("explain", "SECRET_KEY", "--host", "web1"))
    assert said[-1] == "-> derived (secret), made once on the host and kept in its .env"


def test_a_knob_is_explained_with_the_line_that_sets_it(operator: Operator) -> None:
    operator.write("group_data/dify.py", '# ours\nroot = "/srv/dify"\n')
    said = squeezed(operator.reads("explain", "root", "--host", "web1"))
    assert said[:3] == [
        "root",
        "knob Where configuration and data lie on the host.",
        "may be an absolute path without spaces, as /opt/dify",
    ]
    assert said[3] == "default '/opt/dify'"
    assert re.fullmatch(r"group_data/all\.py line \d+ '/opt/dify'", said[-2])
    assert said[-1] == "-> group_data/dify.py line 2 '/srv/dify'"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tls", "'off' or 'own' or 'letsencrypt' or 'proxy'"),
        ("harden", "True or False"),
        ("hsts", "a whole number of at least 0"),
        ("min_memory", "a size with a unit, as 4GiB, or a whole number of at least 0"),
        ("docker_repository", "text that must begin with http:// or https://"),
        ("profiles", "a list"),
        ("expose", "a dictionary"),
        ("public_url", ""),
    ],
)
def test_what_may_be_given_as_a_knob_is_said_where_it_is_known(operator: Operator, name: str, words: str) -> None:
    said = squeezed(operator.reads("explain", name, "--host", "web1"))
    assert [line for line in said if line.startswith("may be ")] == ([f"may be {words}"] if words else [])


@pytest.mark.parametrize(
    "url",
    [
        f"http://me:{SECRET}@proxy:3128",
        f"http://{SECRET}@proxy:3128",
        f"http://me:a/{SECRET}@proxy:3128",
        f"http://me:a?b#{SECRET}@proxy:3128",
        f"http://me:a@{SECRET}@proxy:3128",
        f"http://:{SECRET}@proxy",
    ],
)
def test_a_login_in_a_url_is_not_shown_whatever_is_in_it(operator: Operator, url: str) -> None:
    operator.write(".env", f"HTTP_PROXY='{url}'\nLOG_LEVEL='{url}'\n")
    _, out, err = operator.types("explain", "HTTP_PROXY")
    assert "(secret)" in out
    _, more, errors = operator.types("check")
    assert "LOG_LEVEL: must be one of DEBUG" in errors
    assert SECRET not in out + err + more + errors


@pytest.mark.parametrize("url", ["http://proxy.lan:3128", "http://proxy.lan/@me", "me@example.com", "http://x/?q=a@b"])
def test_an_address_without_a_login_is_shown(operator: Operator, url: str) -> None:
    operator.write(".env", f"HTTP_PROXY={url}\n")
    assert f"-> .env line 1 {url}" in squeezed(operator.reads("explain", "HTTP_PROXY", "--host", "web1"))


def test_every_knob_has_a_meaning_and_those_with_secrets_are_not_shown(operator: Operator) -> None:
    operator.write(
        "group_data/dify.py", f'registry_login = {{"r.lan": {{"username": "me", "password": "{SECRET}"}}}}\n'
    )
    for name in Knobs.model_fields:
        assert re.search(r"[A-Za-z]", explain.knob_meaning(name)), name
    assert SECRET not in operator.reads("explain", "registry_login")


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("LOG_LEVLE", "LOG_LEVLE: no setting of Dify 1.11.4 and no knob; did you mean LOG_LEVEL?"),
        ("PUBSUB_REDIS_URL", "PUBSUB_REDIS_URL is called EVENT_BUS_REDIS_URL and known to Dify 1.13.3 only"),
        ("event_bus_redis_url", "EVENT_BUS_REDIS_URL is known to Dify 1.13.3 only, and dify_version is 1.11.4"),
        ("milvus_host", "MILVUS_HOST is called MILVUS_URI in Dify 1.11.4; give that one"),
    ],
)
def test_a_name_that_is_none_is_one_line(operator: Operator, typed: str, line: str) -> None:
    code, out, err = operator.types("explain", typed)
    assert (code, out, err[: len(line)]) == (1, "", line)
    assert err.count("\n") == 1


def test_an_old_name_is_told(operator: Operator) -> None:
    operator.write("group_data/dify.py", 'dify_version = "1.13.3"\n')
    assert "once called PUBSUB_REDIS_URL" in squeezed(operator.reads("explain", "EVENT_BUS_REDIS_URL"))


def test_wrong_settings_can_be_explained(operator: Operator) -> None:
    operator.write(".env", "LOG_LEVEL=loud\n")
    said = squeezed(operator.reads("explain", "LOG_LEVEL", "--host", "web1"))
    assert said[-2:] == ["-> .env line 1 loud", "(settings are wrong) see: python -m stack check"]


# --- explain ---


def test_without_a_name_all_that_differs_is_a_table(operator: Operator) -> None:
    operator.write(".env", "LOG_TZ=Europe/Berlin\nDEBUG=false\n")
    said = squeezed(operator.reads("explain"))
    assert said[0] == "host setting value default comes from"
    assert "web1 LOG_TZ Europe/Berlin UTC .env line 1" in said
    assert "web2 LOG_LEVEL ERROR INFO inventory.py line 1" in said
    assert "web1 MIGRATION_ENABLED false true derived" in said
    assert not [line for line in said if " DEBUG " in line or "web1 LOG_LEVEL" in line]


def test_on_a_terminal_the_table_is_drawn(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert "━" in operator.reads("explain", "LOG_LEVEL", "--host", "web1")


# --- settings ---


def test_settings_are_found_by_a_part_of_their_name_or_group(operator: Operator) -> None:
    said = squeezed(operator.reads("settings", "log_level"))
    assert said[1:] == ["LOG_LEVEL one of DEBUG, INFO, WARNING, ERROR, CRITICAL INFO Api and workers"]
    assert len(operator.reads("settings", "weaviate").splitlines()) > 10


def test_without_a_word_all_settings_are_there_and_no_published_secret(operator: Operator) -> None:
    said = operator.reads("settings")
    assert {line.split()[0] for line in said.splitlines()[1:]} == set(RELEASE.settings)
    assert [value for value in published(RELEASE).values() if len(value) > 12 and value in said] == []


def test_of_another_release_too(operator: Operator) -> None:
    assert "EVENT_BUS_REDIS_URL" in operator.reads("settings", "event_bus", "--dify-version", "1.13.3")
    code, out, err = operator.types("settings", "event_bus")
    assert (code, out, err) == (1, "", "no setting of Dify 1.11.4 has 'event_bus' in it\n")


# --- check ---


def test_each_host_that_is_right_is_a_line(operator: Operator) -> None:
    operator.write(".env", "LOG_TZ=Europe/Berlin\nLOG_DATEFORMAT=\n")
    said = operator.reads("check").splitlines()
    assert said[-2:] == [
        "web1: fine: Dify 1.11.4, 1 setting given",
        "web2: fine: Dify 1.11.4, 2 settings given",
    ]
    assert said[0].startswith("warning: web1, web2: .env line 2: LOG_DATEFORMAT is empty")
    assert "the release's %Y-%m-%d %H:%M:%S counts; give a value or take it out" in said[0]


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("CONSOLE_API_URL=", "what follows from other settings and knobs, https://dify.example.com, counts"),
        ("NGINX_SERVER_NAME=", "what follows from other settings and knobs, dify.example.com, counts"),
        ("DB_PASSWORD=", "the host's own or a new one counts"),
        ("QDRANT_API_KEY=", "the release's own counts"),
        ("LOG_LEVEL=", "the release's INFO counts"),
    ],
)
def test_of_an_empty_value_it_is_said_which_counts_instead(operator: Operator, line: str, counts: str) -> None:
    operator.write(".env", f"{line}\n")
    operator.write("group_data/dify.py", 'public_url = "https://dify.example.com"\n')
    name = line.rstrip("=")
    assert (
        f"{name} is empty, as if it were not there: {counts}; give a value" in operator.reads("check").splitlines()[0]
    )


@pytest.mark.parametrize(
    ("line", "knobs", "said"),
    [
        (
            "CERTBOT_EMAIL=me@example.com",
            "",
            'while NGINX_ENABLE_CERTBOT_CHALLENGE is false; set tls = "letsencrypt", or',
        ),
        (
            "CERTBOT_DOMAIN=example.com",
            "",
            'while NGINX_ENABLE_CERTBOT_CHALLENGE is false; set tls = "letsencrypt", or',
        ),
        ("NGINX_SSL_CERT_FILENAME=x.crt", "", 'while NGINX_HTTPS_ENABLED is false; set tls = "own", or take it out'),
        ("NGINX_SSL_CERT_FILENAME=dify.crt", "", ""),
        ("NGINX_HTTPS_ENABLED=true\nNGINX_SSL_CERT_FILENAME=x.crt", "", ""),
        ("CERTBOT_EMAIL=me@example.com", 'tls = "letsencrypt"\npublic_url = "https://dify.example.com"', ""),
        ("CERTBOT_EMAIL=me@example.com", 'profiles = ["certbot"]', ""),
    ],
)
def test_a_setting_that_nothing_reads_is_warned_of(operator: Operator, line: str, knobs: str, said: str) -> None:
    operator.write(".env", f"{line}\n")
    operator.write("group_data/dify.py", knobs)
    found = [one for one in operator.reads("check").splitlines() if "nothing reads it" in one]
    assert [f"warning: web1, web2: .env line 1: {line}: nothing reads it {said}" in one for one in found] == [
        True
    ] * bool(said)


def test_what_is_wrong_is_a_line_each_and_exit_code_1(operator: Operator) -> None:
    operator.write(".env", "LOG_LEVLE=1\n")
    operator.write("group_data/dify.py", 'images = {"ngnix": "nginx:1"}\n')
    code, out, err = operator.types("check")
    assert (code, out) == (1, "")
    assert err.startswith("web1, web2: .env line 1: LOG_LEVLE is no setting")


@pytest.mark.parametrize("words", [[], ["explain"], ["settings"], ["check"], ["render"], ["docs"]])
def test_each_command_explains_itself(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "usage: python -m stack" in said
    assert words in ([], ["docs"]) or "examples:\n  python -m stack" in said


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m stack settings | head -n 1"
    done = subprocess.run(["sh", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert (done.stdout[:7], done.stderr) == ("setting", "")


# --- docs/ ---


@pytest.mark.parametrize("name", sorted(pages.PAGES))
def test_a_page_that_is_made_from_data_is_not_stale(name: str) -> None:
    assert (pages.DOCS / name).read_text() == pages.PAGES[name](), f"docs/{name} is stale: make docs"


def test_the_page_has_every_setting_of_every_release_and_no_published_secret() -> None:
    page = pages.PAGES["settings.md"]()
    for version in release.versions():
        facts: Release = release.load(version)
        assert [name for name in facts.settings if f"| `{name}` |" not in page] == []
        assert [value for value in published(facts).values() if len(value) > 12 and value in page] == []


@pytest.mark.parametrize(
    ("name", "those"),
    [
        ("LOG_LEVEL", ("api", "worker", "worker_beat", "plugin_daemon")),
        ("NGINX_CLIENT_MAX_BODY_SIZE", ("nginx",)),
        ("SANDBOX_GIN_MODE", ("sandbox",)),
        ("SSRF_COREDUMP_DIR", ("ssrf_proxy",)),
    ],
)
def test_who_reads_a_setting_is_found_in_the_templates(name: str, those: tuple[str, ...]) -> None:
    assert set(those) <= set(readers(name, RELEASE))
    assert name == "LOG_LEVEL" or "weaviate" not in readers(name, RELEASE)
