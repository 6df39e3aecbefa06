"""What follows from REDIS_*: the broker's address, Celery's side of Sentinel and TLS, and what does not go together.

Dify's api reads both sides, its plugin daemon REDIS_* only. As read in api/extensions/ext_redis.py and ext_celery.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from urllib.parse import quote, unquote, urlsplit

from stack.choices import REDIS

SENTINEL = ("REDIS_SENTINELS", "REDIS_SENTINEL_SERVICE_NAME")
# Celery's queues; REDIS_DB is for all else.
BROKER_DB = 1


def uses_sentinel(values: Mapping[str, str]) -> bool:
    """Whether Redis is found by asking Sentinels."""
    return values.get("REDIS_USE_SENTINEL", "true" if values.get("REDIS_SENTINELS") else "").lower() == "true"


def nodes(values: Mapping[str, str]) -> list[str]:
    """The Sentinels, each as "host:port"."""
    return [node.strip() for node in values.get("REDIS_SENTINELS", "").split(",") if node.strip()]


def contradictions(given: Mapping[str, str]) -> Iterator[str]:
    """A line for each thing in the operator's settings that no Redis client of Dify's could make sense of."""
    if _is_true(given, "REDIS_USE_CLUSTERS") or given.get("REDIS_CLUSTERS"):
        name = "REDIS_USE_CLUSTERS" if _is_true(given, "REDIS_USE_CLUSTERS") else "REDIS_CLUSTERS"
        yield (
            f"{name}: Dify's plugin daemon does not speak to a Redis Cluster (daemon#475); give one Redis "
            "(REDIS_HOST) or Sentinels (REDIS_SENTINELS)"
        )
    if uses_sentinel(given):
        yield from _sentinel(given)
    elif given.get("REDIS_SENTINELS"):
        yield "REDIS_USE_SENTINEL=false: contradicts REDIS_SENTINELS; leave one of them out"


def _sentinel(given: Mapping[str, str]) -> Iterator[str]:
    if missing := [name for name in SENTINEL if not given.get(name)]:
        name = "REDIS_USE_SENTINEL=true" if "REDIS_USE_SENTINEL" in given else "REDIS_SENTINELS"
        yield f"{name}: needs {' and '.join(missing)} (host:port,host:port and the master's name)"
    for node in nodes(given):
        host, _, port = node.rpartition(":")
        if not host or not port.isdigit() or ":" in host:
            yield f"REDIS_SENTINELS: {node!r} is not host:port"
    if given.get("REDIS_HOST", REDIS.local["REDIS_HOST"]) != REDIS.local["REDIS_HOST"]:
        yield f"REDIS_HOST={given['REDIS_HOST']}: is not read when Redis is found by REDIS_SENTINELS; leave one of them out"
    if _is_true(given, "REDIS_USE_SSL"):
        yield "REDIS_USE_SSL=true: Dify's api and worker speak no TLS to a Redis behind Sentinels; leave one of them out"
    if given.get("CELERY_USE_SENTINEL", "true").lower() != "true" and not given.get("CELERY_BROKER_URL"):
        yield "CELERY_USE_SENTINEL=false: contradicts REDIS_SENTINELS, which CELERY_BROKER_URL follows from; leave it out"


def derived(get: Callable[[str], str], values: Mapping[str, str]) -> dict[str, str]:
    """What Celery needs to find the same Redis, for values that the operator did not give.

    get: any setting's value, the release's default where nothing else is known.
    values: what is set so far.
    """
    found = {"CELERY_BROKER_URL": broker_url(get, values)}
    if uses_sentinel(values):
        found |= {
            "REDIS_USE_SENTINEL": "true",
            "CELERY_USE_SENTINEL": "true",
            "CELERY_SENTINEL_MASTER_NAME": get("REDIS_SENTINEL_SERVICE_NAME"),
            "CELERY_SENTINEL_PASSWORD": get("REDIS_SENTINEL_PASSWORD"),
            "CELERY_SENTINEL_SOCKET_TIMEOUT": get("REDIS_SENTINEL_SOCKET_TIMEOUT"),
        }
    elif _is_true(values, "REDIS_USE_SSL"):
        found["BROKER_USE_SSL"] = "true"
    return {name: value for name, value in found.items() if value}


def broker_url(get: Callable[[str], str], values: Mapping[str, str]) -> str:
    """Where Celery finds its queues; with Sentinels one address for each, all with the login of the Redis behind them."""
    user, password = quote(get("REDIS_USERNAME"), safe=""), quote(values.get("REDIS_PASSWORD", ""), safe="")
    if uses_sentinel(values):
        return ";".join(f"sentinel://{user}:{password}@{node}/{BROKER_DB}" for node in nodes(values))
    scheme = "rediss" if _is_true(values, "REDIS_USE_SSL") else "redis"
    return f"{scheme}://{user}:{password}@{get('REDIS_HOST')}:{get('REDIS_PORT')}/{BROKER_DB}"


def other_password(given: str, derived: str) -> bool:
    """Whether two URLs lead to the same Redis with different passwords; another user of it may have another."""
    try:
        (place, password), (other, right) = _login(given), _login(derived)
    except ValueError:
        return False  # no URL that anybody could follow
    return place == other and password != right


def _login(url: str) -> tuple[tuple[str | None, int, str], str]:
    """((host, port, user), password); raises ValueError for what is no URL."""
    parts = urlsplit(url)
    user = unquote(parts.username or "")
    # Our own knows one user, and it has this name everywhere.
    user = "" if user == "default" or parts.hostname == REDIS.local["REDIS_HOST"] else user
    return (parts.hostname, parts.port or int(REDIS.local["REDIS_PORT"]), user), unquote(parts.password or "")


def _is_true(values: Mapping[str, str], name: str) -> bool:
    return values.get(name, "").lower() == "true"
