"""W3C Trace Context (Recommendation, level 1): the one header that joins a command to everything it causes.

The SDK that exports spans is no part of this: whatever reads the topics can build the trace from the headers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_TRACEPARENT_MAX_CHARACTERS = 256
"""Version 00 has 55; a later version may append to it."""

SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace: 16 bytes that name the trace, 8 bytes that name the step, both in hexadecimal."""

    trace_id: str
    span_id: str
    flags: int = SAMPLED

    @property
    def traceparent(self) -> str:
        """The header's value, in version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    def child(self, *parts: str | int) -> TraceContext:
        """The step that `parts` name below this one.

        Guarantee: the same parts give the same step, so that a decision that is made again, after a crash, is the same
        step of the same trace. Take the id of the message that the step emits.
        """
        return TraceContext(self.trace_id, _derived(self.span_id, *parts, length=16), self.flags)


def parse(traceparent: str | None) -> TraceContext | None:
    """Reads the header. Whatever is no lawful value gives None: the standard has the reader begin a new trace."""
    if traceparent is None or len(traceparent) > _TRACEPARENT_MAX_CHARACTERS:
        return None
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    # Of a later version's flags only the one that this version defines may be passed on.
    return TraceContext(trace_id, span_id, int(flags, 16) & SAMPLED)


def root(cause_id: str) -> TraceContext:
    """The trace of a message that came without one: derived from its id, so that every reader begins the same."""
    return TraceContext(_derived("trace", cause_id, length=32), _derived("span", cause_id, length=16))


def child_of(traceparent: str | None, *parts: str | int) -> str | None:
    """The header of a step below the one that a header names (`TraceContext.child`); None where it names none."""
    context = parse(traceparent)
    return None if context is None else context.child(*parts).traceparent


def _derived(*parts: str | int, length: int) -> str:
    return _nonzero(sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:length])


def _nonzero(digits: str) -> str:
    return digits if digits.strip("0") else digits[:-1] + "1"  # all zeros means "no id"
