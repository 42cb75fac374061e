"""The search for canaries finds them: a search that finds nothing would prove nothing."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.searching import Search

SECRET = "hvs.CAESIJ/k+" + secrets.token_urlsafe(48) + '="'

WRITTEN: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda one: one,
    "backwards": lambda one: one[::-1],
    "hex": lambda one: one.hex().encode(),
    "HEX": lambda one: one.hex().upper().encode(),
    "URL": lambda one: quote(one.decode(), "").encode(),
    "JSON": lambda one: json.dumps({"a": one.decode()}).encode(),
    "base64": base64.b64encode,
    "base64, URL-safe": base64.urlsafe_b64encode,
    "base64 in the middle": lambda one: base64.b64encode(b"?" + one + b"??"),
    "base64 after two": lambda one: base64.b64encode(b"??" + one + b"?"),
    "its first half": lambda one: one[: len(one) // 2],
    "its second half in base64": lambda one: base64.b64encode(one[len(one) // 2 :]),
}


@pytest.mark.covers("V4")
@pytest.mark.parametrize("how", WRITTEN)
@given(before=st.binary(max_size=40), after=st.binary(max_size=40))
def test_a_secret_is_found_however_it_is_written(how: str, before: bytes, after: bytes) -> None:
    search = Search({"this": SECRET, "that": "another-secret-of-thirty-characters"})
    assert search(before + WRITTEN[how](SECRET.encode()) + after) == {"this"}


@pytest.mark.covers("V4")
def test_nothing_is_found_where_nothing_is() -> None:
    search = Search({"this": SECRET})
    assert search(b"") == search(bytes(10_000)) == search(secrets.token_bytes(100_000)) == set()
    assert search(SECRET[:12].encode()) == set(), "a short piece is none"
