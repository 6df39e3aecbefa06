"""What follows from a choice: where services are, settings that must agree, and the profiles that bring up the chosen ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from posixpath import normpath

from stack import external, redis
from stack.choices import DATABASE_PORTS, DATABASES, LISTS, REDIS, SANDBOX_KEYS, UNSTRUCTURED, VECTOR_STORES, Choice
from stack.errors import InvalidError, nearest
from stack.release import Release
from stack.secrets import GENERATED

CHOICES = {"DB_TYPE": DATABASES, "VECTOR_STORE": VECTOR_STORES}
PGDATA_MOUNT = "/var/lib/postgresql/data/"
# What the deployment needs whatever is chosen; the secrets of a choice stand with it.
CORE_SECRETS = ("SECRET_KEY", "INIT_PASSWORD", "SANDBOX_API_KEY", "PLUGIN_DAEMON_KEY", "PLUGIN_DIFY_INNER_API_KEY")


@dataclass(frozen=True)
class Chosen:
    """What one deployment consists of beside Dify itself.

    local: our own services, by what they are chosen as ("VECTOR_STORE=qdrant"); database first.
    elsewhere: what Dify uses that runs elsewhere, named alike.
    """

    local: Mapping[str, Choice]
    elsewhere: Mapping[str, Choice]

    @property
    def secrets(self) -> tuple[str, ...]:
        """The secrets that this deployment must have."""
        names = (name for choice in self.local.values() for name in choice.secrets)
        return tuple(dict.fromkeys([*CORE_SECRETS, *names]))

    @property
    def theirs(self) -> set[str]:
        """The secrets of services that run elsewhere: whoever runs them makes and changes these, not we."""
        return {name for choice in self.elsewhere.values() for name in choice.secrets} - set(self.secrets)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Settings that must have one value: (Dify's side, the service's side)."""
        return [SANDBOX_KEYS, *(pair for choice in self.local.values() for pair in choice.same)]


def choose(release: Release, given: Mapping[str, str], profiles: Iterable[str]) -> Chosen:
    """What the operator's settings and extra profiles stand for.

    Raises InvalidError for a value that is none, for settings that contradict each other, and for a service that runs
    elsewhere without what leads to it.
    """
    given = {name: value for name, value in given.items() if value}
    wanted = dict(_wanted(release, given, profiles))
    local = {what: choice for what, choice in wanted.items() if choice.is_local(given)}
    chosen = Chosen(local, {what: choice for what, choice in wanted.items() if what not in local})
    if lines := [
        *_unknown_values(release, given),
        *_contradictions(given),
        *_apart(given, chosen.pairs),
        *_not_ours(given, chosen),
        *_nowhere(given, chosen),
        *_unusable(given, chosen),
        *_too_weak(given, chosen),
        *external.contradictions(release, given),
    ]:
        raise InvalidError(lines)
    return chosen


def _wanted(release: Release, given: Mapping[str, str], profiles: Iterable[str]) -> Iterator[tuple[str, Choice]]:
    for name, choices in CHOICES.items():
        value = given.get(name) or release.default(name)
        if value in choices:
            yield f"{name}={value}", choices[value]
    yield "REDIS_HOST", REDIS
    if given.get("ETL_TYPE", "").lower() == "unstructured":
        yield "ETL_TYPE=Unstructured", UNSTRUCTURED
    for profile in profiles:
        if profile in VECTOR_STORES and profile != given.get("VECTOR_STORE", release.default("VECTOR_STORE")):
            yield f"profile {profile}", VECTOR_STORES[profile]


def _unknown_values(release: Release, given: Mapping[str, str]) -> Iterable[str]:
    for name, choices in CHOICES.items():
        value = given.get(name) or release.default(name)
        if value not in choices:
            yield f"{name}={value}: not offered; allowed: {', '.join(sorted(choices))}{nearest(value, choices)}"


def _nowhere(given: Mapping[str, str], chosen: Chosen) -> Iterable[str]:
    for what, choice in chosen.elsewhere.items():
        if missing := [name for name in choice.needed if name not in given]:
            yield f"{what}: runs elsewhere, so {_names(missing)} must be given"


def _unusable(given: Mapping[str, str], chosen: Chosen) -> Iterable[str]:
    for what, choice in chosen.local.items():
        for name, characters in choice.refused.items():
            if bad := [character for character in characters if character in given.get(name, "")]:
                yield f"{name}: {what} cannot take {' or '.join(bad)} in it; give it another value"


def _too_weak(given: Mapping[str, str], chosen: Chosen) -> Iterable[str]:
    """Passwords with which our own servers would not start."""
    for what, choice in chosen.local.items():
        both = [(name, name) for name in choice.secrets] + [pair for pair in choice.same if pair[0] in GENERATED]
        for secret, name in both:
            if name in given and (lacks := GENERATED[secret].lacks(given[name])):
                yield f"{name}: {what} does not start with this one, it needs {lacks}; give it another value or leave it out"


def _names(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def derive(
    release: Release,
    given: Mapping[str, str],
    own: Mapping[str, str],
    chosen: Chosen,
    extra_profiles: Iterable[str],
    from_knobs: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """All values that are set: the operator's, the host's secrets, and what follows from them.

    release: for defaults.
    given: what the operator set; wins over everything.
    own: the secrets of this deployment.
    chosen: what it consists of.
    extra_profiles: Compose profiles to bring up besides those that the choices need.
    from_knobs: what follows from public_url and the like (stack/derived.py); anything else wins over it.
    Raises InvalidError for a URL of Redis that cannot log in.
    """
    given = {name: value for name, value in given.items() if value}
    values = {**(from_knobs or {}), **own, **_leading(chosen), **given}
    for pair in chosen.pairs:
        _make_agree(values, given, *pair)
    follows = redis.derived(lambda name: values.get(name) or release.default(name), values)
    values = {**follows, **values}
    if lines := [
        f"{name}: its password is not REDIS_PASSWORD; leave it out, it follows from REDIS_*"
        for name in ("CELERY_BROKER_URL", "EVENT_BUS_REDIS_URL")
        if name in given and redis.other_password(given[name], follows["CELERY_BROKER_URL"])
    ]:
        raise InvalidError(lines)
    values |= external.derived(values)
    values["MIGRATION_ENABLED"] = "false"
    values["COMPOSE_PROFILES"] = ",".join(
        dict.fromkeys([*(choice.profile for choice in chosen.local.values()), *extra_profiles])
    )
    return values


def _contradictions(given: Mapping[str, str]) -> Iterable[str]:
    if given.get("MIGRATION_ENABLED", "false") != "false":
        yield "MIGRATION_ENABLED: the migration is a step of the deployment; leave this setting out"
    folder = given.get("PGDATA", PGDATA_MOUNT)
    if not (folder.startswith(PGDATA_MOUNT) and f"{normpath(folder)}/".startswith(PGDATA_MOUNT)):
        yield f"PGDATA={given['PGDATA']}: must be below {PGDATA_MOUNT}, the only folder that outlives the container"
    if "COMPOSE_PROFILES" in given:
        yield "COMPOSE_PROFILES: follows from VECTOR_STORE and DB_TYPE; for others use the knob profiles"
    yield from redis.contradictions(given)


def _apart(given: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    for one, other in pairs:
        if one in given and other in given and given[one] not in _values(other, given[other]):
            yield f"{one} and {other} differ, but must be the same; give one of them only"


def _not_ours(given: Mapping[str, str], chosen: Chosen) -> Iterable[str]:
    """Settings that would lead Dify past the service that is brought up for it."""
    for what, choice in chosen.local.items():
        for name, value in choice.local.items():
            if name in given and given[name].lower() != value.lower():
                elsewhere = f", or give {choice.where[0]} of one that runs elsewhere" if choice.where else ""
                yield (
                    f"{name}={given[name]}: contradicts {what}, which brings up {choice.profile} with "
                    f"{name}={value or '(none)'}; leave {name} out{elsewhere}"
                )


def _leading(chosen: Chosen) -> dict[str, str]:
    """The settings that lead to each service; the choices that Dify uses win over extra profiles."""
    values: dict[str, str] = {}
    for choice in reversed(list(chosen.local.values())):
        values |= choice.local
    for what in chosen.elsewhere:
        if what.startswith("DB_TYPE="):
            values["DB_PORT"] = DATABASE_PORTS[what.removeprefix("DB_TYPE=")]
    return values


def _make_agree(values: dict[str, str], given: Mapping[str, str], one: str, other: str) -> None:
    if other in given and one not in given:
        values[one] = _values(other, given[other])[0]
    elif one in values and other not in given:
        values[other] = values[one]


def _values(name: str, value: str) -> list[str]:
    return value.split(",") if name in LISTS else [value]
