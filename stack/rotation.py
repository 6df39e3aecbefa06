"""Changing a secret of a running deployment: which can be changed, on which server, and what the new value is."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from stack.choices import DATABASES, LISTS, SANDBOX_KEYS, VECTOR_STORES
from stack.errors import InvalidError, nearest
from stack.secrets import GENERATED, make
from stack.settings import Settings

COMMAND = "pyinfra inventory.py tasks.secrets.rotate name={}"
# Below `root` while a secret is being changed: its name, its old and its new value.
FILE = ".rotation"
# Its last line: a controller that dies while sending leaves half a file, which must not be taken for a whole one.
COMPLETE = "# complete"

# {Dify's side: the other names of the same value}
ALIASES: dict[str, list[str]] = {}
for _one, _other in (
    SANDBOX_KEYS,
    *(pair for choice in (*VECTOR_STORES.values(), *DATABASES.values()) for pair in choice.same),
):
    # The password that DB_TYPE=oceanbase shares with the vector store is a secret of its own otherwise.
    if _one in GENERATED and _other not in GENERATED and _other not in ALIASES.get(_one, []):
        ALIASES.setdefault(_one, []).append(_other)

# Nothing takes back what was encrypted with the old one.
ENCRYPTS = {
    "SECRET_KEY": "stored credentials (of model providers, tools, plugins) are encrypted with what is derived from it and "
    "could never be read again, and everybody is logged out",
    "KIBANA_ENCRYPTION_KEY": "Kibana's connectors and rules are encrypted with it and could never be read again",
}

# Servers that keep a password of their own and cannot be asked by us to change it for sure: how their makers do it.
BY_HAND = {
    "MILVUS_PASSWORD": "update_password of pymilvus, as root",
    "OPENSEARCH_PASSWORD": "hash.sh, internal_users.yml and securityadmin.sh in its container",
    "ELASTICSEARCH_PASSWORD": "elasticsearch-reset-password --username elastic --interactive in its container",
    "ORACLE_PASSWORD": "ALTER USER ... IDENTIFIED BY in FREEPDB1",
    "ORACLE_PWD": "setPassword.sh in its container",
    "OCEANBASE_VECTOR_PASSWORD": "ALTER USER root IDENTIFIED BY in its tenant",
    "COUCHBASE_PASSWORD": "couchbase-cli reset-admin-password in its container",
    "VASTBASE_PASSWORD": "ALTER ROLE ... IDENTIFIED BY ... REPLACE",
    "OPENGAUSS_PASSWORD": "ALTER ROLE ... IDENTIFIED BY ... REPLACE",
    "MATRIXONE_PASSWORD": "ALTER USER ... IDENTIFIED BY, as root for root and as dump for dump",
}

# {setting: (service, kind)} of the servers that we change the password of; all others read theirs at each start.
SERVERS = {
    "PGVECTOR_PASSWORD": ("pgvector", "postgresql"),
    "PGVECTO_RS_PASSWORD": ("pgvecto-rs", "postgresql"),
}
DATABASE_SERVERS = {"postgresql": ("db_postgres", "postgresql"), "mysql": ("db_mysql", "mysql")}


@dataclass(frozen=True)
class Trial:
    """How the real server is asked whether it takes a value.

    service: that is asked. kind: how: postgresql, mysql, redis or http.
    through: the service that leads there, for one that the host itself has no way to.
    port, path, header, data: of the HTTP request, which is answered with 2xx, or with 401 or 403 to a wrong value.
    """

    service: str
    kind: str
    port: str = ""
    path: str = ""
    header: str = ""
    data: str = ""
    through: str = ""


_RUN = '{"language": "python3", "code": "print(1)", "enable_network": false}'
TRIALS = {
    "REDIS_PASSWORD": Trial("redis", "redis"),
    "SANDBOX_API_KEY": Trial("sandbox", "http", "8194", "/v1/sandbox/run", "X-Api-Key: ", _RUN, "ssrf_proxy"),
    "WEAVIATE_API_KEY": Trial("weaviate", "http", "8080", "/v1/schema", "Authorization: Bearer "),
    "QDRANT_API_KEY": Trial("qdrant", "http", "6333", "/collections", "api-key: "),
    "CHROMA_AUTH_CREDENTIALS": Trial(
        "chroma", "http", "8000", "/api/v2/tenants/default_tenant", "Authorization: Bearer "
    ),
}


@dataclass(frozen=True)
class Rotation:
    """One secret on its way from one value to another.

    pending: whether an earlier run began it.
    """

    name: str
    old: str = field(repr=False)
    new: str = field(repr=False)
    pending: bool = False

    def text(self) -> str:
        """What FILE holds; base64, so that any value is one line."""
        lines = [f"NAME={self.name}", f"OLD={encoded(self.old)}", f"NEW={encoded(self.new)}", COMPLETE]
        return "".join(f"{line}\n" for line in lines)


def encoded(value: str) -> str:
    return b64encode(value.encode()).decode()


def read(text: str) -> Rotation:
    """What lies in FILE; raises InvalidError when that is no whole one of ours."""
    found = dict(line.partition("=")[::2] for line in text.splitlines())
    if COMPLETE not in found or not {"NAME", "OLD", "NEW"} <= found.keys():
        raise InvalidError(f"{FILE} on the host is no whole file of ours: look what it holds, then remove it")
    old, new = (b64decode(found[key]).decode() for key in ("OLD", "NEW"))
    return Rotation(found["NAME"], old, new, pending=True)


def refuse_unknown(name: str) -> None:
    """Raise InvalidError for a name that is none of the secrets made for a deployment."""
    for one, others in ALIASES.items():
        if name in others:
            raise InvalidError(f"name={name}: has the same value as {one}: name that one, and both change")
    if name not in GENERATED:
        raise InvalidError(
            f"name={name}: no secret that is made for a deployment{nearest(name, GENERATED) or '.'} "
            f"There are {', '.join(sorted(GENERATED))}"
            if name
            else f"name= is missing: which secret? There are {', '.join(sorted(GENERATED))}"
        )


def refuse_unfinished(name: str, root: str) -> None:
    """Raise InvalidError when FILE is on a host that shall get something else; name: what it says is being changed."""
    if name:
        raise InvalidError(
            f"{root}/{FILE}: the change of {name} was not finished, and its server may have the new value already; "
            f"first run {COMMAND.format(name)}"
        )


def server(name: str, settings: Settings) -> tuple[str, str]:
    """(service, kind) of the server that keeps this password itself; empty when it is only configuration."""
    if name == "DB_PASSWORD":
        return DATABASE_SERVERS.get(settings["DB_TYPE"], ("", ""))
    return SERVERS.get(name, ("", ""))


def trial(name: str, settings: Settings) -> Trial | None:
    """How its real server shows that it takes the new value and refuses the old; None where nothing is known."""
    if name == "SANDBOX_API_KEY":
        return replace(TRIALS[name], port=settings["SSRF_REVERSE_PROXY_PORT"])
    if name in TRIALS:
        return TRIALS[name]
    service, kind = server(name, settings)
    return Trial(service, kind) if service else None


def planned(
    name: str, draft: Settings, kept: Mapping[str, str], begun: Rotation | None = None, force: bool = False
) -> Rotation:
    """What changes on one host.

    name: one of GENERATED. draft: what the operator wants. kept: what the host's own .env holds.
    begun: what an earlier run left there.
    force: change what other things are encrypted with, too.
    Raises InvalidError with the reason when it cannot be.
    """
    refuse_unfinished(begun.name if begun and begun.name != name else "", draft.knobs.root)
    _refuse(_no_way(name, draft, force))
    if not kept.get(name):
        raise InvalidError(f"{name}: this host has none yet; deploy first")
    given = draft.values[name] if draft.given & {name, *ALIASES.get(name, [])} else ""
    if begun and given and given != begun.new:
        raise InvalidError(
            f"{name}: an earlier run began to change it to another value than the one you give; take it out of your "
            "settings, run this again to finish that, then put it back and run it once more"
        )
    if given and not begun and given == kept[name]:
        raise InvalidError(
            f"{name}: the host has the value that your settings give (python -m stack explain {name}): change it there, "
            "then run this again"
        )
    return begun or Rotation(name, kept[name], given or make(name))


def _no_way(name: str, draft: Settings, force: bool) -> Iterable[str]:
    if name in draft.chosen.theirs:
        yield f"{name}: its service runs elsewhere: change it there, then in your settings, and deploy"
    elif name not in draft.chosen.secrets:
        yield f"{name}: nothing of this deployment uses it"
    elif name in ENCRYPTS and not force:
        yield f"{name}: {ENCRYPTS[name]}. If that is meant, add force=yes"
    elif name in BY_HAND or (name == "DB_PASSWORD" and not server(name, draft)[0]):
        how = BY_HAND.get(name, BY_HAND["OCEANBASE_VECTOR_PASSWORD"])
        yield (
            f"{name}: its server keeps it with its data, and there is no safe command for that yet: change it there ({how}), "
            f"write the same value into {draft.knobs.root}/.env on the host and into your settings if they give it, then deploy"
        )


def _refuse(lines: Iterable[str]) -> None:
    if lines := list(lines):
        raise InvalidError(lines)


def replaced(kept: Mapping[str, str], change: Rotation) -> dict[str, str]:
    """What the host keeps, with the new value under each of its names."""
    names = [change.name, *(other for other in ALIASES.get(change.name, []) if other not in LISTS)]
    return {**kept, **dict.fromkeys(names, change.new)}


def statement(kind: str, password: str) -> str:
    """The SQL that gives the server's own user this password."""
    if kind == "mysql":
        text = password.replace("\\", "\\\\").replace("'", "''")
        users = ", ".join(f"'root'@'{where}' IDENTIFIED BY '{text}'" for where in ("localhost", "%"))
        return f"ALTER USER IF EXISTS {users};\n"
    text = password.replace("'", "''")
    # Statements, and those that fail above all, may go to the log with all that is in them.
    quiet = "SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET standard_conforming_strings = on;"
    return f"{quiet}\nALTER ROLE CURRENT_USER PASSWORD '{text}';\n"
