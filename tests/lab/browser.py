"""curl as a browser: one cookie jar, a name that leads where the test says, and the rules of Secure, HttpOnly and __Host-."""

from __future__ import annotations

import json
import subprocess
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}
STATUS = "\n%{http_code}"


@dataclass(frozen=True)
class Cookie:
    """One of the jar, as curl took it: what breaks the rules of its name or flags is not there."""

    name: str
    value: str
    secure: bool
    httponly: bool
    # With a domain in Set-Cookie, hosts below it get the cookie too.
    subdomains: bool
    path: str


@dataclass(frozen=True)
class Answer:
    """What came back from one address."""

    status: int
    body: str

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass
class Browser:
    """A person's browser at one public address.

    jar: the file that its cookies are in.
    origin: scheme, host and port of the address.
    leads_to: the IP address that the name stands for.
    authority: a certificate in PEM that it trusts, and no other; None trusts none.
    """

    jar: Path
    origin: str
    leads_to: str
    authority: Path | None = None

    def ask(self, url: str, *words: str, cookies: bool = True) -> Answer:
        """Fetch an absolute address, or a path at the origin; words are further ones of curl's."""
        parts = urlsplit(url if "://" in url else self.origin + url)
        there = f"{parts.hostname}:{parts.port or PORTS[parts.scheme]}:{self.leads_to}"
        command = ["curl", "--silent", "--show-error", "--max-time", "30", "--write-out", STATUS, "--resolve", there]
        command += ["--noproxy", "*"]
        command += ["--cookie", str(self.jar), "--cookie-jar", str(self.jar)] if cookies else []
        command += ["--cacert", str(self.authority)] if self.authority else []
        done = subprocess.run([*command, *words, parts.geturl()], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{parts.geturl()}: {done.stderr}"
        body, _, status = done.stdout.rpartition("\n")
        return Answer(int(status), body)

    def post(self, path: str, document: object, *words: str) -> Answer:
        """Send JSON, as the page does; the CSRF token goes in `words`."""
        return self.ask(path, "--header", "Content-Type: application/json", "--data", json.dumps(document), *words)

    def cookies(self) -> dict[str, Cookie]:
        """{name: cookie} in the jar."""
        if not self.jar.exists():
            return {}
        lines = [line for line in self.jar.read_text().splitlines() if line.count("\t") == 6]
        return {cookie.name: cookie for cookie in map(_cookie, lines)}

    def log_in(self, email: str, password: str) -> Answer:
        """As Dify's page does it: the password in base64."""
        return self.post("/console/api/login", {"email": email, "password": b64encode(password.encode()).decode()})

    def csrf(self, name: str) -> list[str]:
        """curl's words for the CSRF token in the cookie of this name, if a script of the page could read it."""
        cookie = self.cookies().get(name)
        assert cookie, f"{name} is not among {sorted(self.cookies())}"
        assert not cookie.httponly
        return ["--header", f"X-CSRF-Token: {cookie.value}"]


def _cookie(line: str) -> Cookie:
    """A line of curl's jar: domain, subdomains, path, secure, expiry, name, value; HttpOnly stands before the domain."""
    domain, subdomains, path, secure, _, name, value = line.split("\t")
    return Cookie(name, value, secure == "TRUE", domain.startswith("#HttpOnly_"), subdomains == "TRUE", path)
