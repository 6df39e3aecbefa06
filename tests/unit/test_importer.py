"""`python -m stack import-release`: a Dify checkout's docker folder becomes the data of a release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack import importer, release
from stack.__main__ import main
from tests.unit.wanted import refused

# A small Dify in our own words: every spelling that upstream's files use, once.
COMPOSE = r"""
x-shared-env: &shared
  LOG_LEVEL: ${LOG_LEVEL:-INFO}
  SECRET_KEY: ${SECRET_KEY:-everybody-knows-this}
  LOG_DATEFORMAT: ${LOG_DATEFORMAT:-%Y %H:%M}
  HOOK: ${HOOK:-http://localhost/e/{hook_id}}
services:
  api:
    image: example/dify-api:2.0.1
    restart: always
    environment:
      <<: *shared  # shared by both
      MODE: api
      LOG_LEVEL: ${LOG_LEVEL:-INFO}
      SENTRY_DSN: ${API_SENTRY_DSN:-}
    depends_on: [web]
  worker:
    image: example/dify-api:2.0.1
    environment: {<<: *shared, MODE: worker, HOOK: "${WORKER_HOOK:-none}"}
  web:
    image: example/dify-web:2.0.1
    restart: no
    environment:
      - CONTACT=${CONTACT}
      - NAME=a=b
      - FROM_OUTSIDE
      - INSTANCES=${PM_INSTANCES:-2}
    command: >
      serve --port ${WEB_PORT:-3000}
            --cost $${NOT_OURS}
    ports: [22:22, "${WEB_PORT:-3000}:3000"]
  nginx:
    image: nginx
    init: true
    environment: {STRICT: true, LEVEL: 5, RATIO: 1.0, HALF: 0.5, TAG: 1.2.3, BOTH: "${A:-1} ${B:-2}"}
  database:
    build: ./database
networks:
  default: {driver: bridge}
volumes:
  data:
"""
MIDDLEWARE = """
services:
  nginx:
    image: nginx
    env_file: [./middleware.env]
    environment: {CHECK: false}
"""
FILES = {
    "docker-compose.yaml": COMPOSE,
    "docker-compose.middleware.yaml": MIDDLEWARE,
    ".env.example": "# words\nLOG_LEVEL=DEBUG\nPROFILES=${LOG_LEVEL:-x},y\n\nSECRET_KEY=everybody-knows-this\n#OLD=1\n",
    "middleware.env.example": "PORT=1\nEMPTY=\nPORT=2\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "docker", FILES)


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_settings_stand_in_upstreams_order_with_who_reads_them(folder: Path) -> None:
    found = importer.read(folder).settings
    assert [(s.name, s.default, s.shared, readers) for s, readers in found.values()] == [
        ("LOG_LEVEL", "INFO", True, ()),
        ("PROFILES", "${LOG_LEVEL:-x},y", False, ()),
        ("SECRET_KEY", "everybody-knows-this", True, ()),
        ("LOG_DATEFORMAT", "%Y %H:%M", True, ()),
        ("HOOK", "http://localhost/e/{hook_id}", True, ()),
        ("A", "1", False, ("nginx",)),
        ("API_SENTRY_DSN", "", False, ("api",)),
        ("B", "2", False, ("nginx",)),
        ("CONTACT", "", False, ("web",)),
        ("FROM_OUTSIDE", "", False, ("web",)),
        ("PM_INSTANCES", "2", False, ("web",)),
        ("WEB_PORT", "3000", False, ("web",)),
        ("WORKER_HOOK", "none", False, ("worker",)),
    ]


def test_a_service_keeps_what_it_does_not_share(folder: Path) -> None:
    services = importer.read(folder).services["services"]
    assert services["api"] == {
        "image": "example/dify-api:2.0.1",
        "restart": "always",
        "depends_on": ["web"],
        "environment": {"MODE": {"value": "api"}, "SENTRY_DSN": {"setting": "API_SENTRY_DSN", "default": ""}},
        "reads_shared_settings": True,
    }
    assert services["worker"]["environment"]["HOOK"] == {"setting": "WORKER_HOOK", "default": "none"}
    assert [name for name, block in services.items() if block["reads_shared_settings"]] == ["api", "worker"]
    assert services["database"] == {"build": "./database", "environment": {}, "reads_shared_settings": False}


def test_both_spellings_of_environment_are_read(folder: Path) -> None:
    services = importer.read(folder).services["services"]
    assert services["web"]["environment"] == {
        "CONTACT": {"setting": "CONTACT", "default": ""},
        "NAME": {"value": "a=b"},
        "FROM_OUTSIDE": {"setting": "FROM_OUTSIDE", "default": ""},
        "INSTANCES": {"setting": "PM_INSTANCES", "default": "2"},
    }


def test_yaml_is_read_as_compose_reads_it(folder: Path) -> None:
    services = importer.read(folder).services["services"]
    assert services["web"]["restart"] == "no"
    assert services["web"]["ports"] == ["22:22", "${WEB_PORT:-3000}:3000"]
    assert services["web"]["command"] == "serve --port ${WEB_PORT:-3000}\n      --cost $${NOT_OURS}\n"
    assert services["nginx"]["init"] is True
    assert {name: entry["value"] for name, entry in services["nginx"]["environment"].items()} == {
        "STRICT": "true",
        "LEVEL": "5",
        "RATIO": "1",
        "HALF": "0.5",
        "TAG": "1.2.3",
        "BOTH": "${A:-1} ${B:-2}",
    }


def test_networks_volumes_and_the_middleware_are_kept(folder: Path) -> None:
    new = importer.read(folder)
    assert (new.services["networks"], new.services["volumes"]) == ({"default": {"driver": "bridge"}}, {"data": None})
    assert new.middleware["settings"] == {"PORT": "2", "EMPTY": ""}
    assert new.middleware["services"]["nginx"]["environment"] == {"CHECK": {"value": "false"}}
    assert new.middleware["services"]["nginx"]["env_file"] == ["./middleware.env"]


def test_the_version_is_the_tag_of_the_api_unless_it_is_given(folder: Path) -> None:
    assert importer.read(folder).version == "2.0.1"
    assert importer.read(folder, "2.1.0").version == "2.1.0"
    assert importer.read(folder.parent).version == "2.0.1"


# What is wrong with a folder, and the one line about it.
WRONG = [
    ("docker-compose.yaml", None, "has no docker-compose.yaml; give the docker folder of a Dify checkout"),
    ("docker-compose.middleware.yaml", None, "docker-compose.middleware.yaml: cannot be read: No such file"),
    (".env.example", None, ".env.example: cannot be read: No such file"),
    ("middleware.env.example", None, "middleware.env.example: cannot be read: No such file"),
    ("docker-compose.yaml", "a: [", "docker-compose.yaml: no valid YAML: "),
    ("docker-compose.yaml", "a: 1", "docker-compose.yaml: has no services"),
    ("docker-compose.yaml", "services: {api: {image: a:1.0}}", "has no x-shared-env; this layout is not known here"),
    ("docker-compose.yaml", COMPOSE.replace("api:2.0.1", "api:main"), "example/dify-api:main, which names no release"),
    ("docker-compose.yaml", COMPOSE.replace("example/dify-api:2.0.1", "a"), "image is a, which names no release; give"),
    (".env.example", "A=1\nB 'c\nD=\n", ".env.example line 2: not NAME=value"),
    (".env.example", 'A="1\n2"\n', "A: a default with a tab or a line break cannot be kept in settings.tsv"),
]


@pytest.mark.parametrize(("name", "text", "said"), WRONG)
def test_a_folder_that_cannot_be_read_is_one_line(folder: Path, name: str, text: str | None, said: str) -> None:
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    assert said in "".join(refused(lambda: importer.read(folder)))


def test_arguments_that_name_nothing_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in [
        ([str(folder / "nowhere")], "nowhere: no such folder; give the docker folder of a Dify checkout"),
        ([str(folder), "--version", "next"], "--version next: not a version such as 1.13.3"),
        ([str(folder), "--against", "0.1"], "--against 0.1: no such release here; known: 1.11.4, 1.13.3"),
        ([str(folder), "--out", str(folder / ".env.example" / "x")], "--out: "),
    ]:
        assert main(["import-release", *arguments]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_what_is_written_is_read_again_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import-release", str(folder), "--out", str(tmp_path / "out" / "2.0.1")]) == 0
    new = importer.read(folder)
    images = yaml.safe_load((tmp_path / "out/2.0.1/images.yaml").read_text())
    assert images == {"api": "example/dify-api:2.0.1", "web": "example/dify-web:2.0.1", "nginx": "nginx:1.28.0"}
    assert "  nginx: upstream floats nginx; nginx:1.28.0 is carried over\n" in capsys.readouterr().out
    assert (tmp_path / "out/2.0.1/settings.tsv").read_text().startswith(release.TABLE_HEAD)
    monkeypatch.setattr(release, "RELEASES", tmp_path / "out")
    release.load.cache_clear()
    try:
        assert importer.known("2.0.1") == importer.Data("2.0.1", new.settings, images, new.services, new.middleware)
    finally:
        release.load.cache_clear()
        release.upstream.cache_clear()


def test_nothing_is_overwritten(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/images.yaml").write_text("pinned by hand\n")
    assert main(["import-release", str(folder), "--out", str(tmp_path / "out")]) == 1
    assert "has images.yaml already; give another --out" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["images.yaml"]


def test_what_changed_is_said_without_the_secrets(folder: Path, tmp_path: Path) -> None:
    later = {
        **FILES,
        "docker-compose.yaml": COMPOSE.replace("2.0.1", "2.1.0")
        .replace("LOG_LEVEL:-INFO", "LOG_LEVEL:-WARN")
        .replace("everybody-knows-this", "everybody-knows-that")
        .replace("  HOOK: ${HOOK:-http://localhost/e/{hook_id}}\n", "  NEW_KEY: ${NEW_KEY:-abc}\n  MORE: ${MORE:-}\n")
        .replace("  database:\n    build: ./database\n", "  store:\n    image: example/store\n")
        .replace("restart: no", "restart: always"),
        "middleware.env.example": "PORT=3\nEMPTY=\n",
    }
    old = importer.read(folder)
    new = importer.read(write(tmp_path / "later", later))
    assert importer.changes(old, new) == [
        "settings added (2):",
        "  NEW_KEY = (a published secret)",
        "  MORE =",
        "settings removed (1):",
        "  HOOK",
        "new defaults (2):",
        "  LOG_LEVEL: INFO -> WARN",
        "  SECRET_KEY: (a published secret) -> (a published secret)",
        "images (2):",
        "  api: example/dify-api:2.0.1 -> example/dify-api:2.1.0",
        "  web: example/dify-web:2.0.1 -> example/dify-web:2.1.0",
        "services added (1):",
        "  store",
        "services removed (1):",
        "  database",
        "services changed (1):",
        "  web: restart",
        "middleware settings changed (1):",
        "  PORT",
    ]
    assert importer.changes(old, old) == []


def data(images: dict[str, str], upstream: dict[str, str | None]) -> importer.Data:
    blocks = {name: {"image": image} if image else {} for name, image in upstream.items()}
    return importer.Data("2.0.1", {}, images, {"services": blocks}, {})


@pytest.mark.parametrize(
    ("before", "pinned", "now", "image", "said"),
    [
        ("a:1", "a:1", "a:2", "a:2", None),
        ("a:1", "own/a:1-fixed", "a:1", "own/a:1-fixed", None),
        ("a:latest", "a:1", "a:latest", "a:1", "upstream floats a:latest; a:1 is carried over"),
        ("a", "a:1", "a:latest", "a:1", "upstream floats a:latest; a:1 is carried over"),
        ("a:latest", "a:1", "a:5", "a:5", None),
        ("a:latest", "a:1", "b:latest", "b:latest", "upstream floats b:latest; name a tag"),
        ("lan:5000/a", "lan:5000/a:1", "lan:5000/a", "lan:5000/a:1", "upstream floats lan:5000/a; lan:5000/a:1 is"),
        (None, "", "a", "a", "upstream floats a; name a tag"),
        (None, "a:1", None, "a:1", "upstream builds this image itself; a:1 is carried over"),
        (None, "", None, None, "upstream builds this image itself; name one"),
        ("a:1", "a:1", "a@sha256:ab", "a@sha256:ab", None),
    ],
)
def test_which_image_a_new_release_gets(
    before: str | None, pinned: str, now: str | None, image: str | None, said: str | None
) -> None:
    old = data({"x": pinned} if pinned else {}, {"x": before})
    new = data({"x": now} if now else {}, {"x": now})
    chosen, lines = importer.pin(new, old)
    assert chosen.images.get("x") == image
    assert [line.startswith(f"x: {said}") for line in lines] == ([True] if said else [])


def environment(entries: dict[str, dict[str, str]]) -> dict[str, str]:
    sources = entries.items()
    return {name: e["value"] if "value" in e else f"${{{e['setting']}:-{e['default']}}}" for name, e in sources}


def docker_folder(version: str) -> dict[str, str]:
    """A release's data as the four files that it could come from."""
    table, facts = release.table(version), release.upstream(version)
    shared = {name: f"${{{name}:-{s.default}}}" for name, (s, _) in table.items() if s.shared}

    def written(facts: dict[str, Any], **more: Any) -> str:
        blocks = {
            name: {key: value for key, value in block.items() if key != "reads_shared_settings"}
            | {
                "environment": {
                    **(shared if block["reads_shared_settings"] else {}),
                    **environment(block["environment"]),
                }
            }
            for name, block in facts["services"].items()
        }
        return yaml.safe_dump({**more, **facts, "services": blocks}, sort_keys=False)

    middleware = dict(release.upstream(version, "middleware"))
    example = middleware.pop("settings")
    # What no service reads stands nowhere else.
    listed = {name: s.default for name, (s, readers) in table.items() if s.shared or not readers}
    return {
        "docker-compose.yaml": written(facts, **{"x-shared-env": shared}),
        "docker-compose.middleware.yaml": written(middleware),
        ".env.example": "".join(f"{name}={value}\n" for name, value in listed.items()),
        "middleware.env.example": "".join(f"{name}={value}\n" for name, value in example.items()),
    }


@pytest.mark.parametrize("version", release.versions())
def test_a_release_that_there_is_comes_back_from_its_files_as_it_was(version: str, tmp_path: Path) -> None:
    new = importer.read(write(tmp_path / "docker", docker_folder(version)))
    old = importer.known(version)
    assert json.dumps(new.services) == json.dumps(old.services)
    assert json.dumps(new.middleware) == json.dumps(old.middleware)
    assert list(new.settings.items()) == list(old.settings.items())
    assert importer.pin(new, old)[0].images == old.images
