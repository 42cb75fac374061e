"""What is taken becomes records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Literal, cast

from sluice_contracts import codec
from sluice_contracts.envelope import SYSTEM_TENANT, CloudEvent, OutgoingRecord
from sluice_contracts.ids import INSTALLATION_ID, derived_id
from sluice_contracts.messages import Message
from sluice_contracts.messages.audit import AuditLineRefused, AuditLinesLost, AuditPlace
from sluice_contracts.topics import AUDIT_POSITION, VAULT_AUDIT, Principal
from sluice_vault_broker.audit.domain.entries import Requests, Unreadable, Use, read_entry
from sluice_vault_broker.audit.domain.lines import LINE_MAX_BYTES, Line, Position
from sluice_vault_broker.audit.domain.rotation import Taken

SOURCE = str(Principal.VAULT_AUDIT)
POSITION_KEY = b"0"

FAULTS = {
    "too_large": f"it has more than {LINE_MAX_BYTES} bytes",
    "incomplete": "its file was closed before the line ended",
}
Reason = Literal["not_utf8", "not_json", "no_entry", "too_large", "incomplete"]


@dataclass(slots=True)
class Told:
    """What one step has to say.

    Attributes:
        lines: By what became of them: used, request, elsewhere (another installation's), or a reason of refusal.
    """

    records: list[OutgoingRecord] = field(default_factory=list)
    lines: Counter[str] = field(default_factory=Counter)


class Teller:
    """Makes records of lines.

    Args:
        installation: The topic prefix. A Vault may serve several installations: uses of tokens of another one's
            pipelines are for its own log.
    """

    def __init__(self, installation: str) -> None:
        self._installation = installation
        self._requests = Requests()

    def tell(self, taken: Taken, now_ms: int) -> Told:
        """One record for each answer, and for each line that can't be read."""
        told = Told()
        if taken.lost is not None:
            detail = "the file is not there any more: keep rotated files beside it until they are read"
            lost = AuditLinesLost(file=taken.lost.file, offset=taken.lost.offset, detail=detail)
            told.records.append(_record(lost, taken.lost.file, taken.lost.offset, now_ms))
            told.lines["lost"] += 1
        for line in taken.lines:
            self._tell(line, now_ms, told)
        return told

    def _tell(self, line: Line, now_ms: int, told: Told) -> None:
        place = AuditPlace(file=line.file, offset=line.offset, size_bytes=len(line.body))
        try:
            if line.fault is not None:
                raise Unreadable(line.fault, FAULTS[line.fault])
            use = read_entry(line.body, place, self._requests)
        except Unreadable as fault:
            reason = cast(Reason, fault.reason)
            refused = AuditLineRefused(
                place=place, reason=reason, detail=str(fault), sha256=sha256(line.body).hexdigest()
            )
            told.records.append(_record(refused, line.file, line.offset, now_ms))
            told.lines[reason] += 1
            return
        if use is None:
            told.lines["request"] += 1
        elif use.installation not in (None, self._installation):
            told.lines["elsewhere"] += 1
        else:
            told.records.append(_used(use))
            told.lines["used"] += 1


def position_record(position: Position) -> OutgoingRecord:
    """The position, as it stands on its topic."""
    return OutgoingRecord(AUDIT_POSITION.name, POSITION_KEY, json.dumps(asdict(position)).encode())


def read_position(values: Iterable[bytes | None]) -> Position | None:
    """The last position; None where there is none.

    Raises:
        ValueError: It is none that we wrote.
    """
    last = None
    for value in values:
        last = value
    if last is None:
        return None
    try:
        return Position(**json.loads(last))
    except (ValueError, TypeError) as error:
        raise ValueError(f"the last record of {AUDIT_POSITION.name} is no position ({error}); delete it") from None


def _used(use: Use) -> OutgoingRecord:
    place = use.message.place
    return _record(use.message, place.file, place.offset, use.time_us // 1_000, use.subject, use.tenant)


def _record(
    data: Message, file: str, offset: int, time_ms: int, subject: str = INSTALLATION_ID, tenant: str = SYSTEM_TENANT
) -> OutgoingRecord:
    event = CloudEvent(derived_id(data.type, file, offset), SOURCE, tenant, subject, time_ms, data)
    return codec.encode(event, topic=VAULT_AUDIT.name, key=subject)
