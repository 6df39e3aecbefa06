"""Redis by the REDIS_* settings."""

from __future__ import annotations

import redis
from redis.sentinel import Sentinel

from stand_in.settings import Settings, is_true


def connect(settings: Settings, timeout: float = 5) -> redis.Redis:
    """timeout: seconds for connecting and for each answer."""
    options = dict(settings.redis)
    if is_true(settings.environment, "REDIS_USE_SENTINEL"):
        return behind_sentinels(settings, timeout)
    if not options["ssl"]:
        options = {name: value for name, value in options.items() if not name.startswith("ssl")}
    return redis.Redis(**options, socket_timeout=timeout, socket_connect_timeout=timeout, decode_responses=True)


def behind_sentinels(settings: Settings, timeout: float) -> redis.Redis:
    """The master that the Sentinels name: without TLS, as Dify's own client."""
    env = settings.environment
    nodes = [(host, int(port)) for host, _, port in (n.rpartition(":") for n in env["REDIS_SENTINELS"].split(","))]
    to_sentinel = {
        "username": env.get("REDIS_SENTINEL_USERNAME") or None,
        "password": env.get("REDIS_SENTINEL_PASSWORD") or None,
        "socket_timeout": timeout,
    }
    to_master = {name: settings.redis[name] for name in ("username", "password", "db")}
    waits = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "decode_responses": True}
    known = Sentinel(nodes, sentinel_kwargs=to_sentinel)
    return known.master_for(env["REDIS_SENTINEL_SERVICE_NAME"], **to_master, **waits)
