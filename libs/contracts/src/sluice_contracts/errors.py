"""Errors of the contract, named by what the caller does next.

```
ContractError
└── InvalidRecord      send the record to its dead-letter topic; it will never become valid
```
"""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """Why a record was refused (C2). The value stands in the dead letter's `dlq_reason` header and in SQL."""

    NO_VALUE = "no_value"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    BAD_HEADERS = "bad_headers"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_VERSION = "unknown_version"
    UNLAWFUL_TYPE = "unlawful_type"
    FORGED_SOURCE = "forged_source"
    BAD_KEY = "bad_key"
    WRONG_PARTITION = "wrong_partition"
    INVALID_BODY = "invalid_body"


class ContractError(Exception):
    """Base of the contract's errors."""


class InvalidRecord(ContractError):
    """The record breaks the contract and always will: it belongs on the dead-letter topic.

    Attributes:
        reason: The class of the fault.
        detail: The thing, its value and what was expected; never the whole body, at most 1,000 characters.
    """

    def __init__(self, reason: Refusal, detail: str) -> None:
        self.reason = reason
        self.detail = detail[:1_000]
        super().__init__(f"{reason}: {self.detail}")
