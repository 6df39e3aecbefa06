"""The first account of a new Dify: whom it is for, and its password."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from stack.errors import nearest
from stack.secrets import ALPHABET

# What api/libs/helper.py of Dify takes, without the letters beyond ASCII that it takes too and few mail servers do.
_EMAIL = re.compile(r"[A-Za-z0-9_.!#$%&'*+\-/=?^`{|}~]+@([A-Za-z0-9_-]+\.)+[A-Za-z0-9_-]{2,}")
_LONGEST_EMAIL = 255  # the column's
_LONGEST_NAME = 30  # Dify's form takes no longer ones
_PASSWORD_LENGTH = 24


class Admin(BaseModel):
    """Whom the first account is for."""

    model_config = ConfigDict(frozen=True)
    email: str
    name: str


def checked(value: object) -> object:
    """The knob admin, None when it is empty; raises what pydantic makes an error of the knob from."""
    if value in ({}, None):
        return None
    if isinstance(value, Admin):
        return value
    if said := _wrong(value):
        raise PydanticCustomError("admin", "{said}", {"said": said})
    return value


def _wrong(value: object) -> str:
    """What is wrong with the knob; empty when nothing is."""
    if not isinstance(value, Mapping):
        return 'must be {"email": ..., "name": ...}, or {} for none'
    fields = Admin.model_fields
    for key in value:
        if key not in fields:
            return (
                f"unknown key {key!r}{nearest(str(key), fields)}; email and name are all there is, the password is made"
            )
    for key in fields:
        if not isinstance(value.get(key), str) or not value[key].strip():
            return f"{key} is missing or no text; both email and name are needed"
    email, name = value["email"], value["name"]
    if len(email) > _LONGEST_EMAIL or not _EMAIL.fullmatch(email):
        return f"email {email!r} is no address that Dify takes: it must be like admin@example.com"
    if len(name) > _LONGEST_NAME or not name.isprintable():
        return f"name {name!r}: must be of at most {_LONGEST_NAME} characters, on one line"
    return ""


def make_password() -> str:
    """A new password: letters and digits, at least one of each, without which Dify refuses it."""
    while True:
        made = "".join(secrets.choice(ALPHABET) for _ in range(_PASSWORD_LENGTH))
        if any(map(str.isdigit, made)) and any(map(str.isalpha, made)):
            return made


def bodies(admin: Admin, init_password: str, password: str) -> tuple[str, str]:
    """What /console/api/init and then /console/api/setup are sent, each on one line."""
    return json.dumps({"password": init_password}), json.dumps({**admin.model_dump(), "password": password})
