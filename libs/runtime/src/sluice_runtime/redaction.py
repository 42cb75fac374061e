"""Takes secrets out of text before it is logged, stored or shown.

Every rule first looks for a fixed word, which costs about a microsecond for 2 KB of ordinary text, and then reads on
from that place. No rule reads a character twice for a reason that an attacker controls: quantifiers are possessive, and
what a rule has looked at and left alone is not looked at by it again, so the time is linear in the length of the text.

Guarantee: redacting twice gives what redacting once gives. What remains is of the same shape: a quoted value keeps its
quotes, so that JSON inside a text stays JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from urllib.parse import quote

KNOWN_SECRET_MIN_CHARACTERS = 4
"""A shorter secret would take every third word out of the text, and could be guessed from what is left."""

_PEM_MAX_CHARACTERS = 16 * 1024
"""An RSA-8192 key has 6.5 KiB of PEM. An END line farther away belongs to something else."""

Spans = list[tuple[int, int, str]]
"""Where secrets were found: start, end, kind."""

_MARKER = re.compile(r"\[redacted:[a-z-]+\]")


def redact(text: str) -> str:
    """Replaces what has the form of a secret by `[redacted:<kind>]`.

    Args:
        text: Any text; it may hold JSON, logs or code.

    Returns:
        The text, the very same object where nothing was found.
    """
    for rule in _TOKEN_RULES:
        text = rule(text)
    # lower() keeps the length of every text but one with a dotted capital I.
    lowered = text.replace("\u0130", "I").lower()
    spans: Spans = []
    for part, find, names in _NAME_RULES:
        if part in lowered:
            for name, kind in names:
                find(text, lowered, name, kind, spans)
    return _replace(text, spans) if spans else text


class Redactor:
    """Redacts by form, and the exact values that this process knows to be secret.

    Args:
        known_secrets: Passwords, keys and tokens that the process was given. They are also found as JSON and as URLs
            would write them.

    Raises:
        ValueError: A known secret has fewer than `KNOWN_SECRET_MIN_CHARACTERS` characters.
    """

    def __init__(self, known_secrets: Iterable[str] = ()) -> None:
        forms: set[str] = set()
        for secret in known_secrets:
            if len(secret) < KNOWN_SECRET_MIN_CHARACTERS:
                raise ValueError(
                    f"a secret of {len(secret)} characters can't be kept out of logs; "
                    f"use one of at least {KNOWN_SECRET_MIN_CHARACTERS}"
                )
            forms |= {secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], quote(secret, "")}
        # The longest first: a secret may begin like another one.
        ordered = sorted(forms, key=lambda form: (-len(form), form))
        # A secret that is a rule's own name ("password") goes last: before, it would hide the name from the rule.
        self._last = tuple(form for form in ordered if any(form.lower() in name for name in _ALL_NAMES))
        self._first = tuple(form for form in ordered if form not in self._last)

    def redact(self, text: str) -> str:
        """As `redact`, and with the known secrets replaced by `[redacted:secret]`."""
        return _known(redact(_known(text, self._first)), self._last)


def names_secret(name: str) -> bool:
    """Whether a field of this name holds a secret, whatever its value looks like: `db_password`, not `token_count`."""
    lowered = name.lower()
    return lowered.endswith(_ALL_NAMES)


def _known(text: str, forms: tuple[str, ...]) -> str:
    for form in forms:
        if form in text:
            # What stands between markers, so that no marker is changed.
            between = _MARKER.split(text)
            markers = [*_MARKER.findall(text), ""]
            clean = (part.replace(form, "[redacted:secret]") for part in between)
            text = "".join(part + marker for part, marker in zip(clean, markers, strict=True))
    return text


def _replace(text: str, spans: Spans) -> str:
    parts: list[str] = []
    done = 0
    for start, end, kind in sorted(spans):
        if end <= done:
            continue
        parts += [text[done : max(start, done)], f"[redacted:{kind}]"]
        done = end
    return "".join([*parts, text[done:]])


# --- secrets that show by their own form -----------------------------------------------------------------------------

Rule = Callable[[str], str]


def _run(pattern: str, kind: str, *, at_least: int, at_most: int | None = None, digit: bool = True) -> Rule:
    """A rule for a prefix and the run of characters after it. A run that is no secret is passed over whole."""
    compiled = re.compile(pattern)

    def replace(match: re.Match[str]) -> str:
        found = match[0]
        long_enough = len(found) >= at_least and (at_most is None or len(found) <= at_most)
        if not long_enough or (digit and not any(character.isdigit() for character in found)):
            return found
        return f"[redacted:{kind}]"

    return lambda text: compiled.sub(replace, text)


_JWT = re.compile(r"eyJ[A-Za-z0-9_-]*+(\.[A-Za-z0-9_-]++\.[A-Za-z0-9_-]*+)?")


def _jwt(text: str) -> str:
    return _JWT.sub(lambda match: "[redacted:jwt]" if match[1] and len(match[0]) >= 30 else match[0], text)


_AUTHORITY = re.compile(r"://([^\s/?#\"'<>\\]*+)")


def _userinfo(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        userinfo, at, host = match[1].rpartition("@")
        if not at or _MARKER.fullmatch(userinfo):
            return match[0]
        user, colon, password = userinfo.partition(":")
        if _MARKER.fullmatch(password) or (not colon and len(user) < 16):
            # A short name alone (ssh://git@host) is no secret; a long one is a token.
            return match[0]
        return f"://{user}:[redacted:password]@{host}" if colon else f"://[redacted:token]@{host}"

    return _AUTHORITY.sub(replace, text)


_PEM_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"[A-Z0-9 ]{1,48}-----")
_PEM_BODY = re.compile(r"(?:[A-Za-z0-9+/=\s]|\\n|\\r)*+")


def _private_keys(text: str) -> str:
    parts: list[str] = []
    done = 0
    next_end = -1
    for begin in _PEM_BEGIN.finditer(text):
        if begin.start() < done:
            continue
        if next_end < begin.end():
            next_end = text.find("-----END ", begin.end())
            next_end = len(text) if next_end < 0 else next_end
        closing = _PEM_END.match(text, next_end + len("-----END "))
        near = next_end - begin.end() <= _PEM_MAX_CHARACTERS
        if closing and near and text.find('"', begin.end(), next_end) < 0:
            end = closing.end()
        else:
            # A key that was cut off is still a key.
            body = _PEM_BODY.match(text, begin.end())
            end = body.end() if body else begin.end()
        parts += [text[done : begin.start()], "[redacted:private-key]"]
        done = end
    return "".join([*parts, text[done:]]) if parts else text


_WORD = "[A-Za-z0-9_-]*+"
_TOKEN_RULES: tuple[Rule, ...] = (
    _private_keys,
    # Vault: service, batch and recovery tokens; before 1.10 `s.` and 24 characters, below.
    _run(rf"hv[sbr]\.(?<![A-Za-z0-9]hv[sbr]\.){_WORD}", "vault-token", at_least=20, digit=False),
    # OpenAI, OpenRouter (sk-or-…), Anthropic (sk-ant-…). A digit tells a key from a hyphenated word.
    _run(rf"sk-(?<![A-Za-z0-9]sk-){_WORD}", "api-key", at_least=20),
    _run(rf"gh[opsru]_(?<![A-Za-z0-9]gh[opsru]_){_WORD}", "api-key", at_least=30),
    _run(rf"github_pat_(?<![A-Za-z0-9]github_pat_){_WORD}", "api-key", at_least=30),
    _jwt,
    # These are told by their exact length: what may follow without a gap has to be gone.
    _run(r"s\.(?<![A-Za-z0-9_.-]s\.)[A-Za-z0-9]*+(?![_(])", "vault-token", at_least=26, at_most=26, digit=False),
    _run(r"AKIA(?<![A-Za-z0-9]AKIA)[A-Z0-9]*+(?![a-z])", "aws-key", at_least=20, at_most=20, digit=False),
    _run(r"ASIA(?<![A-Za-z0-9]ASIA)[A-Z0-9]*+(?![a-z])", "aws-key", at_least=20, at_most=20, digit=False),
    _userinfo,
)

# --- secrets that show by the name before them -----------------------------------------------------------------------

_SEPARATOR = re.compile(r"(?P<close>\\{0,8}[\"'])?[ \t]{0,8}(?P<sign>=>|:=|==|=|:)[ \t]{0,8}(?P<open>\\{0,8}[\"'])?")
_QUOTED = {'"': re.compile(r'(?:[^"\\\n]|\\.)*+'), "'": re.compile(r"(?:[^'\"\\\n]|\\.)*+")}
_ESCAPED = {'"': re.compile(r'[^"\n]*+'), "'": re.compile(r"[^'\"\n]*+")}
_BARE = re.compile(r"[^\s\"'`,;&<>\\]*+")
_CLOSES = re.compile(r"\s{0,64}(?:[,\]}:]|\Z)")
_PROSE = re.compile(r"[^\s\"'`,;&<>\\=]*+")
# `token = lexer.next()`, `password: os.environ`, `password: ${DB_PASSWORD}` are code, and would be spoilt.
_CODE = re.compile(r"[A-Za-z_.]++[(\[]|[A-Za-z_]++(?:\.[A-Za-z_]++)++(?=[\s\"'`,;&<>\\)]|\Z)|\$|%[({s]|\{")
_NO_VALUE = frozenset({"null", "none", "nil", "undefined", "true", "false", "", "-", "str", "string"})
_SCHEME = re.compile(r"(?:bearer|basic|token|apikey|negotiate)[ \t]{1,8}", re.IGNORECASE)
_WHOLE_LINE_SCHEME = re.compile(r"(?:digest|aws4-hmac-sha256|hawk|signature)[ \t]", re.IGNORECASE)
_LINE = re.compile(r"[^\"'\\\r\n]*+")


def _find_assignments(text: str, lowered: str, name: str, kind: str, spans: Spans) -> None:
    at = lowered.find(name)
    while at >= 0:
        end = at + len(name)
        separator = _SEPARATOR.match(text, end)
        if separator and not _ends_string(text, separator):
            start = separator.end()
            end, secret = _quoted(text, separator) if separator["open"] else _bare(text, kind, separator)
            if secret and not _MARKER.fullmatch(text, start, end):
                spans.append((start, end, kind))
        at = lowered.find(name, end)


def _ends_string(text: str, separator: re.Match[str]) -> bool:
    # Not `password="x"` but `"… password=", "…"`: the quote ends a string that the name is part of.
    return separator["close"] is None and separator["open"] is not None and bool(_CLOSES.match(text, separator.end()))


def _quoted(text: str, separator: re.Match[str]) -> tuple[int, bool]:
    start, opening = separator.end(), separator["open"]
    end = _end(_QUOTED[opening] if len(opening) == 1 else _ESCAPED[opening[-1]], text, start)
    if len(opening) > 1:
        while end > start and text[end - 1] == "\\":
            end -= 1
    return end, text[start:end].lower() not in _NO_VALUE


def _bare(text: str, kind: str, separator: re.Match[str]) -> tuple[int, bool]:
    start = separator.end()
    code = _CODE.match(text, start)
    if code:
        return code.end(), False
    if kind == "token" and separator["sign"] == ":" and separator["close"] is None:
        # Prose: "unexpected token: foo". Only what looks random is a secret here.
        end = _end(_PROSE, text, start)
        word = text[start:end]
        if len(word) < 8 or word.isalpha() or word.isdigit():
            return end, False
    end = _end(_BARE, text, start)
    value = text[start:end]
    is_count = kind == "token" and value.isdigit() and len(value) < 10
    return end, not is_count and value.lower() not in _NO_VALUE


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    match = pattern.match(text, start)
    return match.end() if match else start


def _find_headers(text: str, lowered: str, name: str, kind: str, spans: Spans) -> None:
    at = lowered.find(name)
    while at >= 0:
        end = at + len(name)
        start = end
        if name == "bearer":
            start, end = _bearer(text, end)
        else:
            separator = _SEPARATOR.match(text, end)
            if separator and not _ends_string(text, separator):
                start, end = _header(text, separator.end(), whole_line=name == "cookie")
        if end > start and not _MARKER.fullmatch(text[start:end]):
            spans.append((start, end, kind))
        at = lowered.find(name, max(end, at + len(name)))


def _header(text: str, start: int, *, whole_line: bool) -> tuple[int, int]:
    scheme = _SCHEME.match(text, start)
    if scheme:
        start = scheme.end()
    pattern = _LINE if whole_line or _WHOLE_LINE_SCHEME.match(text, start) else _BARE
    end = _end(pattern, text, start)
    if not scheme and text[start:end].lower() in _NO_VALUE | {"required", "failed", "missing", "denied"}:
        return start, start
    return start, end


def _bearer(text: str, end: int) -> tuple[int, int]:
    match = _BARE.match(text, end + 1) if text[end : end + 1] == " " else None
    if match and len(match[0]) >= 16 and any(character.isdigit() for character in match[0]):
        return match.start(), match.end()
    return end, end


_NAME_RULES: tuple[tuple[str, Callable[[str, str, str, str, Spans], None], tuple[tuple[str, str], ...]], ...] = (
    # A part that all names of the line have, how to read on from a name, and each name with the kind of its value.
    ("auth", _find_headers, (("authorization", "authorization"),)),
    ("bearer", _find_headers, (("bearer", "authorization"),)),
    ("cookie", _find_headers, (("cookie", "cookie"),)),
    ("pass", _find_assignments, (("password", "password"), ("passwd", "password"), ("passphrase", "password"))),
    ("pwd", _find_assignments, (("pwd", "password"),)),
    ("secret", _find_assignments, (("secret", "secret"), ("secret_id", "secret"), ("secretid", "secret"))),
    ("token", _find_assignments, (("token", "token"),)),
    (
        "key",
        _find_assignments,
        (
            ("api_key", "api-key"), ("api-key", "api-key"), ("apikey", "api-key"), ("access_key", "secret"),
            ("accesskey", "secret"), ("secret_key", "secret"), ("private_key", "private-key"),
        ),
    ),
)  # fmt: skip

_ALL_NAMES = tuple(name for _, _, names in _NAME_RULES for name, _ in names)
