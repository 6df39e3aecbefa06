"""The scripts of OceanBase and seekdb: run here, against stand-ins of their images' programs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.image import Image
from tests.unit.test_services_relational import NASTY

# Each is run by programs of several processes: those only that differ in what they can break.
PASSWORDS = [NASTY, "plain", "\\'\\\"", "$(id) `id` é"]

# --- OceanBase and seekdb: a server with one user, whose password is in a file ---

# Notes what it is asked on stdin or by -e; knows ALTER USER; reads the password from the option file or MYSQL_PWD.
CLIENT = r"""
for word; do case $word in --defaults-extra-file=*) file=$(cat "${word#*=}") ;; esac; done
test -z "${file:-}" || MYSQL_PWD=$(python3 -c '
import re, sys
print(re.sub(r"\\(.)", r"\1", sys.argv[1].split("password=\"", 1)[1].rstrip("\n")[:-1]), end="")' "$file"; echo .)
test -z "${file:-}" || MYSQL_PWD=${MYSQL_PWD%.}
echo "$*" >>"$NOTES/arguments"
test "${MYSQL_PWD-}" = "$(cat "$NOTES/password")" || { echo 'ERROR 1045: Access denied' >&2; exit 1; }
case " $* " in *' -e '*) exit 0 ;; esac
cat >"$NOTES/sql.$$"
cat "$NOTES/sql.$$" >>"$NOTES/sql"
python3 - "$NOTES/sql.$$" "$NOTES/password" <<'END'
import re, sys
said = re.match(r'ALTER USER root IDENTIFIED BY "((?:[^"\\]|\\.)*)";\n$', open(sys.argv[1]).read(), re.DOTALL)
if said:
    open(sys.argv[2], "w").write(re.sub(r"\\(.)", r"\1", said[1], flags=re.DOTALL))
END
"""


def oceanbase(folder: Path, before: str) -> Image:
    image = Image(
        folder,
        "oceanbase",
        {
            "/usr/sbin/sshd": "sshd",
            "/root/boot/start.sh": f"{folder}/bin/boot",
            "do sleep 5; done": "do sleep 0.1; done",
        },
    )
    (folder / "password").write_text(before)
    image.program("sshd", 'echo "$@" >"$NOTES/sshd"')
    image.program("obclient", CLIENT)
    image.program(
        "boot",
        'env | grep ^OB_ >"$NOTES/environment"; echo starting; echo "${SAID:-boot success!}"; echo after; exit "${CODE:-0}"',
    )
    return image


@pytest.mark.parametrize("password", PASSWORDS)
def test_oceanbase_gets_any_password_and_its_databases(tmp_path: Path, password: str) -> None:
    image = oceanbase(tmp_path, before="")
    done = image.run("start.sh", OB_TENANT_PASSWORD=password, DATABASES="test dify")
    assert done.stdout.splitlines() == ["starting", "boot success!", "Dify's databases are there", "after"]
    assert image.notes("password") == password
    assert image.ready
    assert image.notes("sql").splitlines()[-3:] == [
        "ALTER SYSTEM SET ob_vector_memory_limit_percentage = 30;",
        "CREATE DATABASE IF NOT EXISTS `test`;",
        "CREATE DATABASE IF NOT EXISTS `dify`;",
    ]
    assert password not in image.notes("arguments") + done.stdout + done.stderr
    assert image.run("healthy.sh", OB_TENANT_PASSWORD=password).returncode == 0
    assert image.run("healthy.sh", OB_TENANT_PASSWORD="other").returncode == 1


def test_its_last_words_count_within_a_line_of_the_server_too(tmp_path: Path) -> None:
    image = oceanbase(tmp_path, before="mine")
    image.run("start.sh", OB_TENANT_PASSWORD="mine", DATABASES="test", SAID="(This connecboot success!")
    assert image.ready


def test_oceanbase_that_has_its_password_keeps_it(tmp_path: Path) -> None:
    image = oceanbase(tmp_path, before="mine")
    assert image.run("start.sh", OB_TENANT_PASSWORD="mine", DATABASES="test").returncode == 0
    assert image.ready
    assert "ALTER USER" not in image.notes("sql")


def test_oceanbases_own_scripts_see_no_password_but_one_of_letters_and_digits(tmp_path: Path) -> None:
    image = oceanbase(tmp_path, before="")
    image.run("start.sh", OB_TENANT_PASSWORD=NASTY, DATABASES="test")
    assert re.fullmatch(r"OB_SYS_PASSWORD=[0-9a-f]{32}\n", image.notes("environment"))
    first = image.notes("environment")
    image.run("start.sh", OB_TENANT_PASSWORD=NASTY, DATABASES="test")
    assert image.notes("environment") == first
    assert image.notes("sshd").split() == ["-o", "ListenAddress=127.0.0.1"]


def test_an_oceanbase_that_cannot_start_ends(tmp_path: Path) -> None:
    assert (
        oceanbase(tmp_path, before="").run("start.sh", OB_TENANT_PASSWORD="x", DATABASES="t", CODE="3").returncode == 3
    )


def test_oceanbase_is_not_well_before_it_is_set_up(tmp_path: Path) -> None:
    assert oceanbase(tmp_path, before="x").run("healthy.sh", OB_TENANT_PASSWORD="x").returncode == 1


# As seekdb's agent does it: it escapes double quotes for SQL, and nothing else.
AGENT = r"""
echo "$*" >>"$NOTES/arguments"
python3 -c '
import json, re, sys
said = json.load(sys.stdin)["password"].replace(chr(34), chr(92) + chr(34))
assert re.fullmatch(r"(?:[^\"\\]|\\.)*", said), said
open(sys.argv[1], "w").write(re.sub(r"\\(.)", r"\1", said))' "$NOTES/password"
"""


def seekdb(folder: Path, before: str) -> Image:
    image = Image(
        folder,
        "seekdb",
        {
            "/root/start.sh": f"{folder}/bin/boot",
            "/var/lib/oceanbase/.initialized": f"{folder}/initialized",
            "do sleep 2; done": "do sleep 0.1; done",
        },
    )
    (folder / "password").write_text(before)
    image.program("mysql", CLIENT)
    image.program("curl", AGENT)
    # As the image's: it is made first, then said to be.
    image.program(
        "boot",
        'env | grep ROOT_PASSWORD >"$NOTES/environment"; sleep 0.3; touch "$NOTES/initialized"\n'
        'for i in {1..80}; do test -e "$NOTES/ready" && exit 0; sleep 0.1; done; exit 1',
    )
    return image


@pytest.mark.parametrize("password", PASSWORDS)
def test_seekdb_gets_any_password_and_its_databases(tmp_path: Path, password: str) -> None:
    image = seekdb(tmp_path, before="")
    done = image.run("start.sh", ROOT_PASSWORD=password, DATABASES="test dify")
    assert done.returncode == 0, done.stderr
    assert image.notes("password") == password
    assert image.notes("sql").splitlines() == [
        "CREATE DATABASE IF NOT EXISTS `test`;",
        "CREATE DATABASE IF NOT EXISTS `dify`;",
    ]
    assert password not in image.notes("arguments") + done.stdout + done.stderr + image.notes("environment")
    assert image.run("healthy.sh", ROOT_PASSWORD=password).returncode == 0
    assert image.run("healthy.sh", ROOT_PASSWORD="other").returncode == 1


def test_seekdb_that_has_its_password_keeps_it(tmp_path: Path) -> None:
    image = seekdb(tmp_path, before="mine")
    assert image.run("start.sh", ROOT_PASSWORD="mine", DATABASES="test").returncode == 0
    assert "PUT" not in image.notes("arguments")
