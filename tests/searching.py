"""Looks for secrets in bytes, in whatever form they may have got there."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from urllib.parse import quote

import re2

PART_MIN_CHARACTERS = 16
"""A shorter piece of a secret may stand somewhere by chance."""


class Search:
    """Finds secrets, and pieces of them, in plain, base64, hex, as URLs and JSON write them, and backwards.

    Args:
        secrets: By name, which is what is told of a find.
    """

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._names = {form: name for name, secret in secrets.items() for form in forms(secret)}
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.max_mem = 256 << 20
        self._pattern = re2.compile(b"|".join(re2.escape(form) for form in sorted(self._names, key=len)), options)

    def __call__(self, body: bytes) -> set[str]:
        """The names of the secrets that stand in it."""
        return {self._names[match] for match in self._pattern.findall(body)} if body else set()


def forms(secret: str) -> set[bytes]:
    """How a secret may be written; of a long one also each half of it."""
    whole = secret.encode()
    pieces = [whole, whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    found: set[bytes] = set()
    for piece in (one for one in pieces if one is whole or len(one) >= PART_MIN_CHARACTERS):
        text = piece.decode()
        found |= {piece, piece[::-1], piece.hex().encode(), piece.hex().upper().encode()}
        found |= {
            quote(text, "").encode(),
            json.dumps(text)[1:-1].encode(),
            json.dumps(text)[1:-1].replace("/", r"\/").encode(),
        }
        for core in _base64(piece):
            found |= {core, core.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def _base64(piece: bytes) -> Iterator[bytes]:
    """What of a base64 text is this piece's alone, wherever in the text it begins."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + piece).rstrip(b"=")
        whole = (before + len(piece)) * 8 // 6  # characters that no following byte changes
        yield encoded[(before * 8 + 5) // 6 : whole]
