"""What is taken of a line of Vault's audit file: by an allow-list, so that whatever else an entry holds stays there.

Source: Vault's documentation of audit devices, entries of the types `request` and `response`; tried with 1.21.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from sluice_contracts.envelope import SYSTEM_TENANT
from sluice_contracts.ids import INSTALLATION_ID
from sluice_contracts.limits import COUNT_MAX, IDENTIFIER_PATTERN
from sluice_contracts.messages.audit import AuditPlace, VaultUsed
from sluice_runtime.redaction import redact

WORD_MAX_CHARACTERS = 255
PATH_MAX_CHARACTERS = 1_024
ERROR_MAX_CHARACTERS = 1_000
POLICIES_MAX_COUNT = 64
BEGUN_MAX_COUNT = 10_000
"""Requests whose answers are waited for; of older ones no latency is told."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_END_US = 253_402_300_800_000_000
_IDENTIFIER = re.compile(IDENTIFIER_PATTERN.replace("$", r"\Z"))
_HMAC = "hmac-"
_REFUSALS = ("permission denied", "invalid token", "bad token", "missing client token")


class Unreadable(Exception):
    """The line is none of Vault's: tell it. `reason` is one of `AuditLineRefused`'s."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Use:
    """A request that was answered.

    Attributes:
        subject: The pipeline's id, or `installation` for whoever is no pipeline.
        installation: Whose pipeline it is, by its topic prefix; None where the token does not say.
    """

    subject: str
    tenant: str
    installation: str | None
    time_us: int
    message: VaultUsed


class Requests:
    """When requests began whose answers have not come; the oldest are forgotten."""

    def __init__(self) -> None:
        self._begun_us: OrderedDict[str, int] = OrderedDict()

    def begun(self, request_id: str, time_us: int) -> None:
        """Notes a request."""
        self._begun_us[request_id] = time_us
        while len(self._begun_us) > BEGUN_MAX_COUNT:
            self._begun_us.popitem(last=False)

    def latency_us(self, request_id: str | None, time_us: int) -> int | None:
        """How long an answer took; None where its request is not known. Asking again gives the same."""
        begun_us = self._begun_us.get(request_id or "")
        return None if begun_us is None else max(0, time_us - begun_us)


def read_entry(body: bytes, place: AuditPlace, requests: Requests) -> Use | None:
    """The use that a line tells of; None for a request, which is only noted: its answer tells all of it.

    Raises:
        Unreadable: It is no line that Vault would write.
    """
    entry = _parsed(body)
    request = entry.get("request")
    kind, time_us = entry.get("type"), _time_us(entry.get("time"))
    if kind not in ("request", "response") or time_us is None or not isinstance(request, dict):
        raise Unreadable("no_entry", "it has no type request or response, no time or no request")
    request_id = _word(request.get("id"))
    if kind == "request":
        if request_id is not None:
            requests.begun(request_id, time_us)
        return None
    return _use(entry, request, request_id, time_us, place, requests)


def begun_ns(body: bytes) -> int | None:
    """When a line was written, in nanoseconds since the Unix epoch; None where it can't be read."""
    try:
        time_us = _time_us(_parsed(body).get("time"))
    except Unreadable:
        return None
    return None if time_us is None else time_us * 1_000


def _use(
    entry: Mapping[str, Any], request: Mapping[str, Any], request_id: str | None, time_us: int, place: AuditPlace,
    requests: Requests,
) -> Use:  # fmt: skip
    auth, metadata = _object(entry, "auth"), _object(entry, "auth", "metadata")
    token, error = _word(request.get("client_token")), _text(entry.get("error"), ERROR_MAX_CHARACTERS) or ""
    pipeline_id, tenant = _identifier(metadata.get("pipeline_id")), _identifier(metadata.get("tenant"))
    policies = auth.get("policies")
    message = VaultUsed(
        place=place,
        request_id=request_id,
        operation=_word(request.get("operation")) or "unknown",
        path=_text(request.get("path"), PATH_MAX_CHARACTERS) or "",
        mount_type=_word(request.get("mount_type")),
        outcome=_outcome(auth, error),
        error=error,
        accessor=_word(auth.get("accessor")) or _word(request.get("client_token_accessor")),
        token_hmac=token if token and token.startswith(_HMAC) else None,  # a device with log_raw would show the token
        made_accessor=_word(_object(entry, "response", "auth").get("accessor")),
        display_name=_word(auth.get("display_name")),
        entity_id=_word(auth.get("entity_id")),
        policies=tuple(one for one in map(_word, policies) if one)[:POLICIES_MAX_COUNT]
        if isinstance(policies, list)
        else (),
        agent_id=_identifier(metadata.get("agent_id")),
        attempt=_ordinal(metadata.get("attempt")),
        remote_address=_word(request.get("remote_address")),
        latency_us=requests.latency_us(request_id, time_us),
    )
    return Use(
        pipeline_id or INSTALLATION_ID,
        tenant if pipeline_id and tenant else SYSTEM_TENANT,
        _word(metadata.get("installation")) if pipeline_id else None,
        time_us,
        message,
    )


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(body.decode())
    except UnicodeDecodeError as error:
        raise Unreadable("not_utf8", f"byte {error.start} is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        where = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise Unreadable("not_json", f"it is not JSON{where}") from None
    if not isinstance(entry, dict):
        raise Unreadable("no_entry", "it is no object")
    return entry


def _outcome(auth: Mapping[str, Any], error: str) -> Any:
    if _object(auth, "policy_results").get("allowed") is False or any(part in error for part in _REFUSALS):
        return "refused"
    return "failed" if error else "done"


def _object(of: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        found = of.get(name)
        of = found if isinstance(found, dict) else {}
    return of


def _text(value: Any, most: int) -> str | None:
    """A text without what looks like a secret, cut after that, and without halves of characters, which JSON can't."""
    return redact(value).strip().encode("utf-8", "replace").decode()[:most] if isinstance(value, str) else None


def _word(value: Any) -> str | None:
    return _text(value, WORD_MAX_CHARACTERS) or None


def _identifier(value: Any) -> str | None:
    return value if isinstance(value, str) and _IDENTIFIER.match(value) and redact(value) == value else None


def _ordinal(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and 1 <= len(value) <= 16:
        number = int(value)
        return number if 1 <= number <= COUNT_MAX else None
    return None


def _time_us(value: Any) -> int | None:
    try:
        moment = datetime.fromisoformat(value)
        time_us = (moment - _EPOCH) // _MICROSECOND
    except (TypeError, ValueError, OverflowError):  # no text, no time, no time zone
        return None
    return time_us if 0 <= time_us < _END_US else None
