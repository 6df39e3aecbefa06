"""Sizes: figures that fit together, what wins, and which preset a host gets."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given as example_of
from hypothesis import strategies as st

from stack import release, sizes
from stack.sizes import GIB, MIB, PRESETS
from tests.unit.wanted import compose_of, plain, refused, settings_of, stack_of

# As in the release: SQLALCHEMY_MAX_OVERFLOW; the plugin daemon's own pool; what PostgreSQL keeps for its administrator.
OVERFLOW, PLUGIN_DAEMON, RESERVED = 10, 30, 3
# What a new connection of PostgreSQL takes beside the shared memory, roughly.
BACKEND = 5 * MIB
by_size = pytest.mark.parametrize("size", PRESETS)


def number(value: str) -> int:
    """Bytes of 128MB, 256M and 1G."""
    found = re.fullmatch(r"(\d+)([MG])B?", value)
    assert found
    return int(found[1]) * {"M": MIB, "G": GIB}[found[2]]


# --- The table ---


def test_a_larger_size_never_has_less_of_anything() -> None:
    names = list(PRESETS)
    for smaller, larger in pairwise(names):
        one, other = PRESETS[smaller], PRESETS[larger]
        assert one.memory < other.memory
        assert one.since < other.since
        assert one.limits.keys() == other.limits.keys()
        assert all(one.limits[name] <= other.limits[name] for name in one.limits)
        for of in ("settings", "postgres", "mysql"):
            low, high = getattr(one, of), getattr(other, of)
            assert low.keys() == high.keys()
            assert all(int(re.sub(r"\D", "", low[n])) <= int(re.sub(r"\D", "", high[n])) or "G" in high[n] for n in low)


@by_size
def test_postgres_takes_all_connections_that_the_pools_may_open(size: str) -> None:
    preset = PRESETS[size]
    processes = int(preset.settings["SERVER_WORKER_AMOUNT"]) + 2  # worker, worker_beat
    pools = processes * (int(preset.settings["SQLALCHEMY_POOL_SIZE"]) + OVERFLOW) + PLUGIN_DAEMON
    assert pools + RESERVED <= int(preset.postgres["POSTGRES_MAX_CONNECTIONS"])


@by_size
def test_a_database_stays_within_its_own_limit(size: str) -> None:
    preset = PRESETS[size]
    backends = int(preset.postgres["POSTGRES_MAX_CONNECTIONS"]) * BACKEND
    assert number(preset.postgres["POSTGRES_SHARED_BUFFERS"]) + backends <= preset.limits["db_postgres"] * MIB
    assert number(preset.mysql["MYSQL_INNODB_BUFFER_POOL_SIZE"]) * 2 <= preset.limits["db_mysql"] * MIB


@by_size
def test_what_postgres_counts_on_is_less_than_half_of_the_host(size: str) -> None:
    preset = PRESETS[size]
    assert number(preset.postgres["POSTGRES_SHARED_BUFFERS"]) * 4 <= preset.memory
    assert number(preset.postgres["POSTGRES_EFFECTIVE_CACHE_SIZE"]) <= preset.memory // 2


@by_size
def test_no_container_may_take_half_of_the_host(size: str) -> None:
    assert max(PRESETS[size].limits.values()) * MIB < PRESETS[size].memory // 2


@by_size
def test_a_limit_leaves_each_service_twice_what_it_says_it_takes(size: str) -> None:
    """A service whose template asks for more than its limit would be stopped by it at once."""
    for store in ("weaviate", "qdrant", "pgvector", "chroma"):
        for name, service in stack_of({"VECTOR_STORE": store}, size=size).services.items():
            most = PRESETS[size].limits.get(name, 0) * MIB
            assert not most or service.needs.memory <= most, name
    for name, service in plain().services.items():
        assert service.one_shot or service.needs.memory * 2 <= PRESETS[size].limits[name] * MIB, name


def test_every_limited_service_is_one() -> None:
    known = set(compose_of(plain())["services"])
    for preset in PRESETS.values():
        assert set(preset.limits) <= known


@pytest.mark.parametrize("version", release.versions())
@by_size
def test_a_release_gets_no_setting_that_it_does_not_have(version: str, size: str) -> None:
    facts = release.load(version)
    derived = sizes.settings(size, "postgresql", facts) | sizes.settings(size, "mysql", facts)
    assert set(derived) <= set(facts.settings)
    missing = {*PRESETS[size].settings, *PRESETS[size].postgres, *PRESETS[size].mysql} - set(derived)
    assert missing <= {"PM2_INSTANCES"}  # gone since the web image of 1.13 has no pm2


# --- Which one ---


@pytest.mark.parametrize(
    ("shown", "size"),
    [
        (0, "small"),
        (3.7, "small"),
        (5.8, "small"),
        (7.6, "medium"),
        (7.9, "medium"),
        (11.6, "medium"),
        (15.3, "large"),
        (62, "large"),
    ],
)
def test_auto_is_the_size_that_the_host_was_sold_as(shown: float, size: str) -> None:
    assert settings_of(size="auto").size == "small"
    assert sizes.resolve("auto", int(shown * GIB)) == size


@example_of(st.sampled_from([2, 4, 6, 8, 12, 16, 24, 32, 64]), st.floats(0.94, 1.0), st.floats(0.94, 1.0))
def test_a_new_kernel_that_takes_a_little_more_changes_no_size(sold: int, before: float, after: float) -> None:
    one, other = (sizes.resolve("auto", int(sold * GIB * share)) for share in (before, after))
    assert one == other


@pytest.mark.parametrize("size", ["", *PRESETS])
def test_a_size_by_name_is_that_size_on_any_host(size: str) -> None:
    assert sizes.resolve(size, None) == sizes.resolve(size, 64 * GIB) == size


def test_no_other_size_is_taken() -> None:
    (line,) = refused(lambda: settings_of(size="huge"))
    assert line.startswith("size = 'huge'")
    assert "'small', 'medium', 'large'" in line


# --- What follows ---


def test_without_a_size_all_is_as_in_the_release() -> None:
    stack = plain()
    assert stack.settings.size == ""
    assert not set(PRESETS["small"].settings) & set(stack.settings.values)
    limited = {name for name, block in compose_of(stack)["services"].items() if "mem_limit" in block}
    assert limited == {"nginx", "sandbox", "ssrf_proxy"}
    assert "GOMEMLIMIT" not in stack.files["docker-compose.yaml"].data.decode()


@by_size
def test_a_size_sets_settings_and_limits(size: str) -> None:
    stack = stack_of(size=size)
    for name, value in {**PRESETS[size].settings, **PRESETS[size].postgres}.items():
        assert stack.settings[name] == value
    blocks = compose_of(stack)["services"]
    assert {n: b["mem_limit"] for n, b in blocks.items() if "mem_limit" in b} == {
        name: f"{most}m" for name, most in PRESETS[size].limits.items()
    }
    assert blocks["weaviate"]["environment"]["GOMEMLIMIT"] == f"{PRESETS[size].limits['weaviate'] * 9 // 10}MiB"


@pytest.mark.parametrize("name", ["SERVER_WORKER_AMOUNT", "SQLALCHEMY_POOL_SIZE", "POSTGRES_MAX_CONNECTIONS"])
def test_a_chosen_setting_wins(name: str) -> None:
    assert settings_of({name: "57"}, size="large").values[name] == "57"


@pytest.mark.parametrize(
    ("given", "those"),
    [
        ({}, "postgres"),
        ({"DB_TYPE": "mysql"}, "mysql"),
        ({"DB_HOST": "db.lan", "DB_PASSWORD": "mine"}, ""),
        ({"DB_TYPE": "seekdb"}, ""),
    ],
)
def test_only_a_database_of_our_own_is_sized(given: dict[str, str], those: str) -> None:
    found = settings_of(given, size="large").values
    for of in ("postgres", "mysql"):
        assert bool(set(getattr(PRESETS["large"], of)) & set(found)) is (of == those)


def test_a_service_that_limits_itself_is_left_as_it_is() -> None:
    own = {"deploy": {"resources": {"limits": {"memory": "2g"}}}}
    assert sizes.additions("small", "api", own) == {}
    assert sizes.additions("small", "api", {"mem_limit": "3g"}) == {}
    assert sizes.additions("small", "api", {}) == {"mem_limit": "1536m"}
    assert "mem_limit" not in compose_of(stack_of(size="large"))["services"]["elasticsearch"]


def test_a_limit_is_part_of_what_a_container_is_recreated_for() -> None:
    one, other = stack_of(size="small").services, stack_of(size="medium").services
    assert one["redis"].digest != other["redis"].digest
    assert one["init_permissions"].digest == other["init_permissions"].digest


# --- Said ---


def test_a_size_that_is_larger_than_the_host_is_said() -> None:
    (line,) = sizes.warnings("large", int(3.8 * GIB))
    assert line.startswith('size = "large" is for 16 GiB of memory, and this host has 3.8')


@pytest.mark.parametrize(
    ("size", "memory"), [("large", 15 * GIB), ("large", None), ("auto", GIB), ("", GIB), ("small", GIB)]
)
def test_a_size_that_fits_is_not(size: str, memory: int | None) -> None:
    assert sizes.warnings(size, memory) == []
