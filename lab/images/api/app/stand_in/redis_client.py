"""Redis by the REDIS_* settings."""

from __future__ import annotations

import redis

from stand_in.settings import Settings


def connect(settings: Settings, timeout: float = 5) -> redis.Redis:
    """timeout: seconds for connecting and for each answer."""
    options = dict(settings.redis)
    if not options["ssl"]:
        options = {name: value for name, value in options.items() if not name.startswith("ssl")}
    return redis.Redis(**options, socket_timeout=timeout, socket_connect_timeout=timeout, decode_responses=True)
