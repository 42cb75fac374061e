"""Vault's audit file, line by line (V7): which credential was used for what; never a secret, a token or its grant."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sluice_contracts.messages.base import Count, Identifier, Message, Ordinal, Sha256, Summary, Value, message

Word = Annotated[str, StringConstraints(max_length=255)]
Path = Annotated[str, StringConstraints(max_length=1_024)]


class AuditPlace(Value):
    """Where a line stands in Vault's audit file."""

    file: Sha256 = Field(description="Of the file's first line, 4 KiB at most: renaming or copying it changes nothing.")
    offset: Count = Field(description="Of the line's first byte.")
    size_bytes: Count = Field(description="Of the line, without its end.")


@message("vault.used")
class VaultUsed(Message):
    """Vault has answered a request: done, refused or failed. Its time is that of the answer."""

    place: AuditPlace
    request_id: Word | None = Field(default=None, description="Vault's own id of the request.")
    operation: Word = Field(description="read, create, update, delete, list, … as Vault names it.")
    path: Path = Field(description="What it was about, secrets by their form taken out.")
    mount_type: Word | None = Field(default=None, description="kv, transit, token, approle, system, …")
    outcome: Literal["done", "refused", "failed"] = Field(
        description="refused: who asked may not, or has a token that has ended."
    )
    error: Summary = ""
    accessor: Word | None = Field(
        default=None,
        description="Vault's name of the token that was used; as an HMAC where the audit device makes one of it. None "
        "where Vault does not know the token, or knows it no more.",
    )
    token_hmac: Word | None = Field(
        default=None,
        description="An HMAC of the token with a key that only Vault has: the same in all uses of one token, also "
        "after its end, when the accessor is lacking.",
    )
    made_accessor: Word | None = Field(default=None, description="Of the token that was made or renewed.")
    display_name: Word | None = None
    entity_id: Word | None = None
    policies: tuple[Word, ...] = Field(default=(), max_length=64, description="Of the token; at most 64 are named.")
    agent_id: Identifier | None = Field(default=None, description="Whose token it is, as the token's metadata say.")
    attempt: Ordinal | None = None
    remote_address: Word | None = None
    latency_us: Count | None = Field(
        default=None,
        description="Microseconds from the request to the answer; absent or null if the request was unseen.",
    )


@message("audit.line_refused")
class AuditLineRefused(Message):
    """A line of the audit file that can't be read. What it holds is not repeated: it might be anything."""

    place: AuditPlace
    reason: Literal["not_utf8", "not_json", "no_entry", "too_large", "incomplete"] = Field(
        description="too_large: only its beginning was looked at; incomplete: its file was closed in the middle of it."
    )
    detail: Summary = ""
    sha256: Sha256 = Field(description="Of the line's bytes, as far as `size_bytes` says.")


@message("audit.lines_lost")
class AuditLinesLost(Message):
    """An audit file is gone before it was read to its end: what stood behind this place is in no record."""

    file: Sha256
    offset: Count = Field(description="Up to here it was read.")
    detail: Summary = ""
