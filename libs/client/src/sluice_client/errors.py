"""Errors of the client, named by what the caller does next.

```
SluiceError
├── InputInvalid     correct the argument or the file that the text names
├── NotRunning       start the installation, or name another one
├── Unreachable      try again: something that should answer did not
├── Refused          correct what was asked for; the problem names field and limit
│   └── NotFound     look it up: there is no such thing
└── TimedOut         wait longer: what was waited for has not happened yet
```
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SluiceError(Exception):
    """Base of the client's errors. The text is for people: the thing, its value, the next step."""


class InputInvalid(SluiceError):
    """An argument or a file can't be used: correct it."""


class NotRunning(SluiceError):
    """No installation was found: start one, or say where it is."""


class Unreachable(SluiceError):
    """Something of the installation did not answer, or said that it can't now: try again."""


class Refused(SluiceError):
    """The installation understood and refused: correct what was asked for.

    Attributes:
        status: The HTTP status.
        problem: The problem document (RFC 9457), with `type`, `detail` and, where they apply, `field` and `limit`.
    """

    def __init__(self, message: str, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.status = status
        self.problem = dict(problem)

    @property
    def code(self) -> str:
        """The problem's code, such as `unknown_role`; empty where the answer was no problem document."""
        return str(self.problem.get("type", "")).rpartition(":")[2]


class NotFound(Refused):
    """There is no such thing."""


class TimedOut(SluiceError):
    """What was waited for has not happened yet."""
