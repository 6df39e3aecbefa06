"""What follows from the knobs: Dify's settings for one address, one size, and how long workflow runs are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stack import address, advisories, egress, exposure, sizes, tls
from stack.release import Release
from stack.wiring import Chosen

if TYPE_CHECKING:
    from stack.settings import Knobs

CLEANUP = "WORKFLOW_LOG_CLEANUP_ENABLED"
RETENTION = "WORKFLOW_LOG_RETENTION_DAYS"


def settings(
    knobs: Knobs,
    release: Release,
    given: Mapping[str, str],
    kept: Mapping[str, str],
    chosen: Chosen,
    memory: int | None = None,
) -> dict[str, str]:
    """Settings that follow from the knobs; what the operator gives wins over each of them.

    release: names that it does not have are left out.
    given: what the operator set.
    kept: what the host's own .env says; empty on a first deploy.
    chosen: what the deployment consists of.
    memory: of the host in bytes; None before it was looked at.
    """
    follows = sizes.settings(sizes.resolve(knobs.size, memory), _own_database(chosen), release)
    if knobs.mode == "dify":
        secured = tls.settings(knobs.tls, knobs.public_url)
        follows |= secured | address.settings(knobs.public_url, release, {**secured, **given})
        follows |= exposure.settings(knobs) | _retention(knobs, kept, chosen) | egress.settings(release, given)
    return {name: value for name, value in follows.items() if name in release.settings}


def warnings(
    knobs: Knobs,
    release: Release,
    given: Mapping[str, str],
    kept: Mapping[str, str],
    chosen: Chosen,
    memory: int | None = None,
) -> tuple[str, ...]:
    """Lines that an operator should read at a deploy, none of which stops it; arguments as of `settings`."""
    store = {"VECTOR_STORE": given.get("VECTOR_STORE") or release.default("VECTOR_STORE")}
    lines = [*sizes.warnings(knobs.size, memory), *exposure.warnings(knobs)]
    if knobs.mode == "dify":
        lines += advisories.warnings(release.version, store)
        lines += tls.cautions(knobs, given.get("EXPOSE_NGINX_PORT") or release.default("EXPOSE_NGINX_PORT"))
        if kept and knobs.workflow_log_retention_days and CLEANUP not in given and not _cleans(kept, chosen):
            lines.append(
                f"workflow runs and their messages are kept for ever here, as before: {CLEANUP}=true in .env has those "
                f"older than {knobs.workflow_log_retention_days} days deleted, workflow_log_retention_days = 0 keeps them"
            )
    return tuple(lines)


def _own_database(chosen: Chosen) -> str:
    """The DB_TYPE of the database that we bring up; empty when it runs elsewhere."""
    return next((what.partition("=")[2] for what in chosen.local if what.startswith("DB_TYPE=")), "")


def _retention(knobs: Knobs, kept: Mapping[str, str], chosen: Chosen) -> dict[str, str]:
    if not knobs.workflow_log_retention_days:
        return {}
    cleans = {CLEANUP: "true"} if _cleans(kept, chosen) else {}
    return {**cleans, RETENTION: str(knobs.workflow_log_retention_days)}


def _cleans(kept: Mapping[str, str], chosen: Chosen) -> bool:
    """Whether old workflow runs are deleted here: from a first deploy with an empty database on.

    A host that kept them until now, or a database that others filled, may hold what somebody wants: never without a word.
    """
    return kept.get(CLEANUP, "").lower() == "true" if kept else bool(_own_database(chosen))


def problems(release: Release, given: Mapping[str, str], data: Mapping[str, Any]) -> list[str]:
    """A line for each of the operator's settings that contradicts a knob, or breaks the login together with it.

    given: what the operator set.
    data: the knobs as they were given, right or wrong.
    """
    if data.get("mode") != "dify":
        return []
    lines = list(tls.problems(release, given, data))
    try:
        secured = tls.settings(str(data.get("tls")), str(data.get("public_url")))
        follows = address.settings(str(data.get("public_url")), release, {**secured, **given})
    except ValueError:
        follows = {}  # said of the knob already
    for_ever = data.get("workflow_log_retention_days") == 0 and RETENTION not in given
    if for_ever and given.get(CLEANUP, "").lower() == "true":
        lines.append(
            f"{CLEANUP}=true: workflow_log_retention_days = 0 says that nothing is deleted; give the days there, or take "
            f"{CLEANUP} out"
        )
    return [*address.problems(release, {**follows, **given}), *lines]
