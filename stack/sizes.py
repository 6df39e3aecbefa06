"""How much of a host Dify may use: worker counts, pools, database memory and container limits for 4, 8 and 16 GiB.

Where the figures come from:

- A process of the api or the worker takes 375 MB when it is idle (seen on 1.11.4), a page server of the web image some 100.
  SERVER_WORKER_AMOUNT is processes; CELERY_WORKER_AMOUNT is tasks at once inside one process, as the image uses gevent.
- Every process of api, worker and worker_beat may hold SQLALCHEMY_POOL_SIZE + SQLALCHEMY_MAX_OVERFLOW (10) connections, the
  plugin daemon 30, and PostgreSQL keeps 3 for its own administrator: POSTGRES_MAX_CONNECTIONS is at least their sum.
- PostgreSQL's manual has a quarter of the memory of a machine of its own as shared_buffers. Here a dozen containers share
  it: 128 MB (the release's default), 512 MB and 1 GB. effective_cache_size is no memory, only what the planner counts on;
  the release's 4 GB would be wrong on a host that has no more than that.
- Limits are ceilings, not shares: their sum is more than the host has. They keep one service that leaks (a worker of 26 GiB
  and a Weaviate of 17 GiB in dify#19614, a plugin daemon of 11 GiB in its issue 495) from taking the others down with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stack.release import Release

Size = Literal["", "small", "medium", "large", "auto"]
GIB = 1024**3
MIB = 1024**2


@dataclass(frozen=True)
class Preset:
    """One size.

    memory: of the host it is for, in bytes.
    since: the least memory that "auto" takes it from, in bytes. A host shows a little less than it is sold with, and a
        little more or less after a new kernel: these lie between the sizes that are sold, so that none goes to and fro.
    settings: of every deployment.
    postgres, mysql: of one with this database of our own.
    limits: {service: MiB} that a container may take.
    """

    memory: int
    since: int
    settings: Mapping[str, str]
    postgres: Mapping[str, str]
    mysql: Mapping[str, str]
    limits: Mapping[str, int]


PRESETS: dict[str, Preset] = {
    "small": Preset(
        memory=4 * GIB,
        since=0,
        settings={
            "SERVER_WORKER_AMOUNT": "1",
            "CELERY_WORKER_AMOUNT": "1",
            "SQLALCHEMY_POOL_SIZE": "10",
            "PM2_INSTANCES": "1",
        },
        postgres={
            "POSTGRES_MAX_CONNECTIONS": "100",
            "POSTGRES_SHARED_BUFFERS": "128MB",
            "POSTGRES_WORK_MEM": "4MB",
            "POSTGRES_MAINTENANCE_WORK_MEM": "64MB",
            "POSTGRES_EFFECTIVE_CACHE_SIZE": "512MB",
        },
        mysql={"MYSQL_INNODB_BUFFER_POOL_SIZE": "256M"},
        limits={
            "api": 1536,
            "worker": 1536,
            "worker_beat": 512,
            "web": 512,
            "plugin_daemon": 1536,
            "db_postgres": 1024,
            "db_mysql": 1024,
            "redis": 512,
            "sandbox": 512,
            "ssrf_proxy": 256,
            "nginx": 128,
            "weaviate": 1024,
            "qdrant": 1024,
            "pgvector": 1024,
            "chroma": 1024,
        },
    ),
    "medium": Preset(
        memory=8 * GIB,
        since=7 * GIB,
        settings={
            "SERVER_WORKER_AMOUNT": "2",
            "CELERY_WORKER_AMOUNT": "2",
            "SQLALCHEMY_POOL_SIZE": "20",
            "PM2_INSTANCES": "2",
        },
        postgres={
            "POSTGRES_MAX_CONNECTIONS": "200",
            "POSTGRES_SHARED_BUFFERS": "512MB",
            "POSTGRES_WORK_MEM": "4MB",
            "POSTGRES_MAINTENANCE_WORK_MEM": "128MB",
            "POSTGRES_EFFECTIVE_CACHE_SIZE": "2048MB",
        },
        mysql={"MYSQL_INNODB_BUFFER_POOL_SIZE": "512M"},
        limits={
            "api": 2560,
            "worker": 2560,
            "worker_beat": 512,
            "web": 768,
            "plugin_daemon": 3072,
            "db_postgres": 2048,
            "db_mysql": 2048,
            "redis": 1024,
            "sandbox": 1024,
            "ssrf_proxy": 512,
            "nginx": 256,
            "weaviate": 2560,
            "qdrant": 2560,
            "pgvector": 2048,
            "chroma": 2560,
        },
    ),
    "large": Preset(
        memory=16 * GIB,
        since=14 * GIB,
        settings={
            "SERVER_WORKER_AMOUNT": "4",
            "CELERY_WORKER_AMOUNT": "4",
            "SQLALCHEMY_POOL_SIZE": "30",
            "PM2_INSTANCES": "4",
        },
        postgres={
            "POSTGRES_MAX_CONNECTIONS": "300",
            "POSTGRES_SHARED_BUFFERS": "1024MB",
            "POSTGRES_WORK_MEM": "8MB",
            "POSTGRES_MAINTENANCE_WORK_MEM": "256MB",
            "POSTGRES_EFFECTIVE_CACHE_SIZE": "6144MB",
        },
        mysql={"MYSQL_INNODB_BUFFER_POOL_SIZE": "1G"},
        limits={
            "api": 5120,
            "worker": 5120,
            "worker_beat": 512,
            "web": 1024,
            "plugin_daemon": 6144,
            "db_postgres": 4096,
            "db_mysql": 4096,
            "redis": 2048,
            "sandbox": 2048,
            "ssrf_proxy": 1024,
            "nginx": 512,
            "weaviate": 6144,
            "qdrant": 6144,
            "pgvector": 4096,
            "chroma": 6144,
        },
    ),
}

# Limits where no size was chosen: of those whom strangers send what they like to. Other services were left without.
UNSIZED = {name: PRESETS["large"].limits[name] for name in ("nginx", "sandbox", "ssrf_proxy")}


def resolve(size: str, memory: int | None) -> str:
    """The preset that a size stands for; "" for none.

    size: the knob.
    memory: what the host has, in bytes; None before it was looked at, which "auto" takes for the smallest.
    """
    if size != "auto":
        return size
    return [name for name, preset in PRESETS.items() if preset.since <= (memory or 0)][-1]


def settings(size: str, database: str, release: Release) -> dict[str, str]:
    """What follows from a size; nothing from none.

    size: as `resolve` gives it.
    database: the DB_TYPE of our own database; "" when it runs elsewhere.
    release: one that does not have a setting does not get it.
    """
    if not size:
        return {}
    preset = PRESETS[size]
    of_database = {"postgresql": preset.postgres, "mysql": preset.mysql}.get(database, {})
    return {name: value for name, value in {**preset.settings, **of_database}.items() if name in release.settings}


def limit(size: str, service: str) -> int:
    """The most memory that a service's container may take, in MiB; 0 for no limit.

    Only what is in the table has one: the other stores take what their own settings say (a heap, a pool), and a limit below
    that would kill them.
    """
    return (PRESETS[size].limits if size else UNSIZED).get(service, 0)


def additions(size: str, service: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """What the size adds to a service's part of the Compose file; nothing where the service sets a limit itself."""
    most = limit(size, service)
    return {"mem_limit": f"{most}m"} if most and "deploy" not in block and "mem_limit" not in block else {}


def warnings(size: str, memory: int | None) -> list[str]:
    """A line when the host is smaller than the size that was chosen by name."""
    if not memory or size not in PRESETS or memory >= PRESETS[size].since:
        return []
    return [
        f'size = "{size}" is for {PRESETS[size].memory // GIB} GiB of memory, and this host has {memory / GIB:.1f}: '
        'a smaller size, or "auto", suits it'
    ]
