"""What is told of a defect: enough to find it, nothing of the machine or of anybody's secrets."""

from __future__ import annotations

import re
from collections.abc import Callable

_TEXT_MAX_CHARACTERS = 500
"""Of the error's own text: a validation error shows all that it was given. The runner's log has the whole."""

_OURS = "sluice_"

_QUOTED_PATH = re.compile(r"""(?P<quote>['"])~?/.*?(?P=quote)""")
_PATH = re.compile(r"(?<![\w.])[~.]*/[^\s'\"]+")


def told(error: Exception, redact: Callable[[str], str]) -> str:
    """A defect in words for `agent.failed`: its class, the function that it came from, its text without paths.

    Args:
        error: As it was caught.
        redact: Takes secrets out of a text; applied before anything is cut, so that no half of a secret stays.
    """
    text = " ".join(redact(str(error)).encode("utf-8", "replace").decode().split())
    text = _PATH.sub("[path]", _QUOTED_PATH.sub("[path]", text))[:_TEXT_MAX_CHARACTERS]
    said = f": {text}" if text else ""
    return f"a defect of the runner: {type(error).__name__} in {_place(error)}{said}; its log has the traceback"


def _place(error: Exception) -> str:
    """The innermost function of our own: what a library was given wrongly was given there."""
    place = "no function"
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        module = str(frame.f_globals.get("__name__"))
        if module.startswith(_OURS) or (trace.tb_next is None and place == "no function"):
            place = f"{module}.{frame.f_code.co_name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place
