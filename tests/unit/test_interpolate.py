"""Compose's variables, resolved as Compose resolves them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.interpolate import interpolate
from tests.unit.wanted import compose_of, leaves, plain, resolved

VALUES = {"A": "one", "B": "", "SECRET": "s$cr{t}"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("", ""),
        ("${A}", "one"),
        ("${A}${A}", "oneone"),
        ("<${A}>", "<one>"),
        ("${NOT_THERE}", ""),
        ("${A:-default}", "one"),
        ("${B:-default}", "default"),
        ("${NOT_THERE:-default}", "default"),
        ("${NOT_THERE:-}", ""),
        ("${NOT_THERE:-a b:c-d?e}", "a b:c-d?e"),
        ("${A:?must be there}", "one"),
        ("${NOT_THERE:-http://localhost/e/{hook_id}}", "http://localhost/e/{hook_id}"),
        ("${NOT_THERE:-{a}{b}}/c", "{a}{b}/c"),
        ("$$", "$"),
        ("$$A $${A} $$$${A}", "$A ${A} $${A}"),
        ("$$${A}", "$one"),
        ("${SECRET}", "s$cr{t}"),
        ("{A} A}", "{A} A}"),
    ],
)
def test_a_text_is_resolved_as_compose_does(text: str, value: str) -> None:
    assert interpolate(text, VALUES) == value


@pytest.mark.parametrize("text", ["$", "a $ b", "${", "${A", "${A:-b", "${}", "${1A}", "costs $5", "${A:-{b}"])
def test_a_lone_dollar_sign_or_an_open_brace_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot interpolate|no closing brace"):
        interpolate(text, VALUES)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$A", "one"),
        ("${B-default}", ""),
        ("${NOT_THERE-default}", "default"),
        ("${A:+other}", "other"),
        ("${NOT_THERE:+other}", ""),
        ("${A+other}", "other"),
        ("${A?must be there}", "one"),
        ("${NOT_THERE:-${A}}", "one"),
        ("${NOT_THERE:-${ALSO_NOT:-inner}}", "inner"),
        ("${NOT_THERE:-a$$b}", "a$b"),
    ],
)
def test_a_form_that_our_templates_do_not_use_is_right_or_refused(text: str, value: str) -> None:
    try:
        assert interpolate(text, VALUES) == value
    except ValueError as error:
        assert text in str(error)


@pytest.mark.parametrize(
    ("node", "value"),
    [
        ({"k": "${A}"}, {"k": "one"}),
        ({"${A}": 1}, {"${A}": 1}),
        (["${A}", {"k": ["${A}"]}], ["one", {"k": ["one"]}]),
        (5, 5),
        (None, None),
        (True, True),
    ],
)
def test_values_at_any_depth_are_resolved_and_all_else_is_left(node: Any, value: Any) -> None:
    assert interpolate(node, VALUES) == value


@given(st.text(), st.text())
def test_a_setting_comes_through_as_it_is(before: str, value: str) -> None:
    escaped = before.replace("$", "$$")
    assert interpolate(f"{escaped}${{X:-default}}", {"X": value}) == before + (value or "default")


def test_the_resolved_compose_file_has_nothing_left_to_resolve() -> None:
    # What `$$` stands for is for shells in containers: $line, $(hostname), ${SERVER_PORT}, ...
    left = {text for text in leaves(resolved(plain())) if "${" in text}
    assert left == {text for text in left if "/dev/tcp/127.0.0.1/${SERVER_PORT}" in text}
    assert not [text for text in leaves(resolved(plain())) if ":-" in text or ":?" in text]


def test_a_default_written_out_is_the_same_as_the_default() -> None:
    for name, text in compose_of(plain())["x-shared-env"].items():
        default = interpolate(text, {})
        assert interpolate(text, {name: default}) == default
