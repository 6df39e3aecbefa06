"""Signature version 4 of S3: to sign a request with a key pair, and to check that one was signed with it."""

from __future__ import annotations

import hashlib
import hmac
import re
import urllib.request
from collections.abc import Mapping
from datetime import datetime, timezone
from urllib.parse import parse_qsl, quote, urlsplit

REGION, SERVICE = "us-east-1", "s3"
AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, ?SignedHeaders=([^,]+), ?Signature=(\w{64})"
)


def signature(
    method: str, target: str, headers: Mapping[str, str], signed: list[str], secret: str, scope: list[str]
) -> str:
    """Of one request. scope: day, region, service, "aws4_request"."""
    place = urlsplit(target)
    query = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parse_qsl(place.query, True)
    )
    canonical = [
        method,
        quote(place.path or "/", safe="/-_.~%"),
        "&".join(f"{name}={value}" for name, value in query),
        *(f"{name}:{' '.join(headers.get(name, '').split())}" for name in signed),
        "",
        ";".join(signed),
        headers.get("x-amz-content-sha256", ""),
    ]
    digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", headers.get("x-amz-date", ""), "/".join(scope), digest])
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = hmac.new(key, part.encode(), "sha256").digest()
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def is_signed(method: str, target: str, headers: Mapping[str, str], access_key: str, secret: str) -> bool:
    found = AUTHORIZATION.fullmatch(headers.get("Authorization", ""))
    if not found or not hmac.compare_digest(found[1].encode(), access_key.encode()):
        return False
    scope = [found[2], found[3], found[4], "aws4_request"]
    wanted = signature(method, target, headers, found[5].split(";"), secret, scope)
    return hmac.compare_digest(wanted, found[6])


def sign(method: str, url: str, access_key: str, secret: str, body: bytes = b"") -> urllib.request.Request:
    """A request that S3 takes from whoever has these keys."""
    place, now = urlsplit(url), datetime.now(timezone.utc)
    headers = {
        "host": place.netloc,
        "x-amz-content-sha256": hashlib.sha256(body).hexdigest(),
        "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
    }
    scope = [now.strftime("%Y%m%d"), REGION, SERVICE, "aws4_request"]
    target = place.path + (f"?{place.query}" if place.query else "")
    signed = signature(method, target, headers, list(headers), secret, scope)
    credential = f"Credential={access_key}/{'/'.join(scope)}, SignedHeaders={';'.join(headers)}, Signature={signed}"
    headers["Authorization"] = f"AWS4-HMAC-SHA256 {credential}"
    return urllib.request.Request(url, data=body or None, method=method, headers=headers)
