"""What a store is to the probe."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Protocol

from stand_in.http import fetch, parse

#: Of a table, index or collection; some stores take no dashes, some no small letters at the beginning.
COLLECTION = "stand_in_probe"
VECTOR = [0.25, 0.5, 0.75]


class NotReached(Exception):
    """Something answered, and not as it should."""


class Unsupported(Exception):
    """The stand-in does not speak to this store."""


class Store(Protocol):
    """Documents by key; a key is a UUID."""

    def write(self, key: str, text: str) -> None: ...

    def read(self, key: str) -> str | None: ...

    def remove(self, key: str) -> None: ...


class Http:
    """A store that is reached by HTTP: an address, what it takes as a login, and whether its certificate is looked at."""

    def __init__(self, url: str, headers: Mapping[str, str], verify: bool = True) -> None:
        self.url, self.headers, self.verify = url.rstrip("/"), dict(headers), verify

    def ask(self, method: str, path: str, document: object = None, also: tuple[int, ...] = ()) -> tuple[int, Any]:
        """Status and JSON. Raises NotReached for an error status that is not among `also`."""
        status, answer = fetch(f"{self.url}{path}", self.headers, document, method, verify=self.verify)
        if status in (401, 403):
            raise NotReached(f"refused the login ({status})")
        if status >= 400 and status not in also:
            raise NotReached(f"{method} {path.partition('?')[0]} answered {status}")
        return status, parse(answer)


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}


def is_true(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").lower() == "true"
