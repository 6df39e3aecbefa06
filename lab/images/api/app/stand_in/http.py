"""One HTTP request, with the error statuses as answers and no proxy that the environment names."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any


def fetch(
    url: str,
    headers: Mapping[str, str] | None = None,
    document: object = None,
    method: str | None = None,
    proxy: str = "",
    verify: bool = True,
) -> tuple[int, bytes]:
    """One request and its answer.

    + document: bytes as they are, anything else as JSON; by POST unless method says otherwise
    + proxy: URL of the HTTP proxy to go through
    + verify: whether the server's certificate must be one that this machine trusts
    """
    body = document if document is None or isinstance(document, bytes) else json.dumps(document).encode()
    request = urllib.request.Request(
        url, data=body, method=method, headers={"Content-Type": "application/json", **(headers or {})}
    )
    through = urllib.request.ProxyHandler({"http": proxy} if proxy else {})
    tls = ssl.create_default_context() if verify else ssl._create_unverified_context()
    opener = urllib.request.build_opener(through, urllib.request.HTTPSHandler(context=tls))
    try:
        with opener.open(request, timeout=8) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def parse(body: bytes) -> Any:
    """The JSON of an answer; None when it is something else."""
    try:
        return json.loads(body)
    except ValueError:
        return None
