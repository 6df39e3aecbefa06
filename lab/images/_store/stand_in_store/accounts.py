"""Users and their passwords, kept with the data: a password given at a later start does not replace the first one."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from pathlib import Path


class Accounts:
    """Users by name, their passwords hashed, in one file."""

    def __init__(self, file: Path | str) -> None:
        self.file = Path(file)

    def bind(self, user: str, password: str) -> bool:
        """Make the user, unless it is there: then its password stays. Returns whether it was made."""
        if user in self._read():
            return False
        self.set(user, password)
        return True

    def set(self, user: str, password: str) -> None:
        salt = os.urandom(16)
        users = {**self._read(), user: [salt.hex(), _hash(password, salt)]}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        beside = self.file.with_suffix(".new")
        beside.write_text(json.dumps(users))
        beside.replace(self.file)

    def knows(self, user: str) -> bool:
        return user in self._read()

    def check(self, user: str, password: str) -> bool:
        salt, wanted = self._read().get(user, ["", ""])
        return bool(wanted) and hmac.compare_digest(_hash(password, bytes.fromhex(salt)), wanted)

    def _read(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = json.loads(self.file.read_text()) if self.file.exists() else {}
        return found


def _hash(password: str, salt: bytes) -> str:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), salt, 1000).hex()
