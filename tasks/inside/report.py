"""What was found of services elsewhere, and how an error is said."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

Check = dict[str, Any]
SECONDS = 10  # for a connection, and for each answer
PROBE = "dify_deploy_check"


class Report:
    """What was found: problems in one line each, what is missing but can be made, and what was made."""

    def __init__(self, create: bool, authorities: str) -> None:
        self.create = create
        self.authorities = authorities
        self.problems: list[str] = []
        self.missing: list[str] = []
        self.made: list[str] = []

    def lacks(self, what: str, make: Callable[[], Any]) -> None:
        """Note that something is missing, or make it."""
        if not self.create:
            self.missing.append(what)
            return
        make()
        self.made.append(what)

    def trusted(self) -> ssl.SSLContext:
        """A context that trusts what the plugin daemon trusts."""
        context = ssl.create_default_context()
        # Newer Pythons refuse authorities that Go, in which the daemon is written, takes.
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        if self.authorities:
            context.load_verify_locations(cadata=self.authorities)
        return context


class Problem(Exception):
    """One line for the operator."""


def one_line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def unreachable(error: BaseException) -> str | None:
    """Why a connection did not come about, in words; None when it is something else."""
    text = one_line(error).lower()
    for reason, words in (
        (
            "its name is not known here",
            ("not known", "could not translate", "name resolution", "no address associated"),
        ),
        ("connection refused", ("refused",)),
        (f"no answer in {SECONDS} s", ("timed out", "timeout")),
        ("no way there", ("no route", "unreachable")),
    ):
        if any(word in text for word in words):
            return reason
    return None


def must_reach(error: BaseException, setting: str, what: str) -> None:
    if reason := unreachable(error):
        raise Problem(f"{setting}: {what}: {reason}; is it up, and does its firewall let this host in?") from error
