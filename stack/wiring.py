"""What follows from a choice: settings that must agree, and the profiles that bring up the chosen services."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote, urlsplit

from stack.errors import InvalidError, nearest
from stack.release import Release

# (what one side uses, what the other side expects): one value, whoever it came from.
SAME = (
    ("SANDBOX_API_KEY", "CODE_EXECUTION_API_KEY"),
    ("WEAVIATE_API_KEY", "WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS"),
)

LISTS = {"WEAVIATE_AUTHENTICATION_APIKEY_ALLOWED_KEYS"}

# Stores that run elsewhere: settings only, no container.
ELSEWHERE = {
    "tidb_vector",
    "tidb_on_qdrant",
    "analyticdb",
    "relyt",
    "tencent",
    "lindorm",
    "baidu",
    "vikingdb",
    "upstash",
    "tablestore",
    "huawei_cloud",
    "clickzetta",
    "alibabacloud_mysql",
}
PGDATA_MOUNT = "/var/lib/postgresql/data/"
LOCAL_STORES = {"weaviate"}
LOCAL_DATABASES = {"postgresql"}


def derive(
    release: Release, given: Mapping[str, str], own: Mapping[str, str], extra_profiles: Iterable[str]
) -> dict[str, str]:
    """All values that are set: the operator's, the host's secrets, and what follows from them.

    release: for defaults.
    given: what the operator set; wins over everything.
    own: the secrets of this deployment.
    extra_profiles: Compose profiles to bring up besides those that the choices need.
    Raises InvalidError when two settings contradict each other or a choice has no service.
    """
    lines = [*_contradictions(given), *_unknown_choices(release, given)]
    if lines:
        raise InvalidError(lines)
    values = {**own, **{name: value for name, value in given.items() if value}}
    for one, other in SAME:
        if given.get(other) and not given.get(one):
            values[one] = given[other].split(",")[0] if other in LISTS else given[other]
        values.setdefault(other, values[one])
    broker = _broker_url(release, values)
    if _other_password(values.setdefault("CELERY_BROKER_URL", broker), broker):
        raise InvalidError(
            "CELERY_BROKER_URL: its password is not REDIS_PASSWORD; leave it out, it follows from REDIS_*"
        )
    values["MIGRATION_ENABLED"] = "false"
    values["COMPOSE_PROFILES"] = ",".join(_profiles(release, values, extra_profiles))
    return values


def _contradictions(given: Mapping[str, str]) -> Iterable[str]:
    for one, other in SAME:
        if (
            given.get(one)
            and given.get(other)
            and given[one] not in (given[other].split(",") if other in LISTS else [given[other]])
        ):
            yield f"{one} and {other} differ, but must be the same; give one of them only"
    if (given.get("MIGRATION_ENABLED") or "false") != "false":
        yield "MIGRATION_ENABLED: the migration is a step of the deployment; leave this setting out"
    if not (given.get("PGDATA") or PGDATA_MOUNT).startswith(PGDATA_MOUNT):
        yield f"PGDATA={given['PGDATA']}: must be below {PGDATA_MOUNT}, the only folder that outlives the container"
    if "COMPOSE_PROFILES" in given:
        yield "COMPOSE_PROFILES: follows from VECTOR_STORE and DB_TYPE; for others use the knob profiles"


def _unknown_choices(release: Release, given: Mapping[str, str]) -> Iterable[str]:
    for name, allowed in (("VECTOR_STORE", LOCAL_STORES | ELSEWHERE), ("DB_TYPE", LOCAL_DATABASES)):
        value = given.get(name) or release.default(name)
        if value not in allowed:
            yield f"{name}={value}: not offered; allowed: {', '.join(sorted(allowed))}{nearest(value, allowed)}"


def _broker_url(release: Release, values: Mapping[str, str]) -> str:
    def get(name: str) -> str:
        return values.get(name) or release.default(name)

    scheme = "rediss" if get("REDIS_USE_SSL").lower() == "true" else "redis"
    user, password = quote(get("REDIS_USERNAME"), safe=""), quote(get("REDIS_PASSWORD"), safe="")
    return f"{scheme}://{user}:{password}@{get('REDIS_HOST')}:{get('REDIS_PORT')}/1"


def _other_password(given: str, derived: str) -> bool:
    """Whether two URLs lead to the same Redis with different passwords."""
    one, other = urlsplit(given), urlsplit(derived)
    return one.hostname == other.hostname and unquote(one.password or "") != unquote(other.password or "")


def _profiles(release: Release, values: Mapping[str, str], extra: Iterable[str]) -> list[str]:
    profiles = []
    if (values.get("DB_HOST") or release.default("DB_HOST")) == release.default("DB_HOST"):
        profiles.append(values.get("DB_TYPE") or release.default("DB_TYPE"))
    store = values.get("VECTOR_STORE") or release.default("VECTOR_STORE")
    endpoint = values.get(f"{store.upper()}_ENDPOINT")
    if store in LOCAL_STORES and endpoint in (None, release.settings[f"{store.upper()}_ENDPOINT"].default):
        profiles.append(store)
    return list(dict.fromkeys([*profiles, *extra]))
