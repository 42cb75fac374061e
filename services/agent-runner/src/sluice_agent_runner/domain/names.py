"""Which names a file of a workspace may have."""

from __future__ import annotations

import unicodedata

from sluice_agent_runner.domain import violations
from sluice_agent_runner.domain.limits import NAME_COMPONENT_MAX_BYTES, NAME_MAX_CHARACTERS, NAME_MAX_DEPTH


class UnsafeName(ValueError):
    """The name can't be used for a file. The message names it, what is wrong, and what a lawful one looks like.

    Attributes:
        breaks: The policy that using it would break; None where it is a mistake and no more.
    """

    def __init__(self, message: str, breaks: str | None = None) -> None:
        self.breaks = breaks
        super().__init__(message)


def components(name: str) -> tuple[str, ...]:
    """Splits a relative name into its components.

    Guarantee: none of them is empty, `.` or `..`, holds a slash, a backslash, a control or an invisible character; so
    opening one after the other, following no symlink, can't leave the directory one began in.

    Raises:
        UnsafeName: The name is not of that form.
    """
    if not name:
        raise UnsafeName("the name is empty; give a relative one, such as report.md")
    if len(name) > NAME_MAX_CHARACTERS:
        raise _unsafe(name, f"has {len(name)} characters; at most {NAME_MAX_CHARACTERS} are allowed")
    if ".." in name.replace("\\", "/").split("/"):
        raise _unsafe(name, "has the component '..'; a name may not leave its folder", violations.PATH_TRAVERSAL)
    if name.startswith("/"):
        raise _unsafe(name, "is absolute; give it relative to the workspace", violations.ABSOLUTE_PATH)
    if "\\" in name:
        raise _unsafe(name, "holds a backslash; separate folders with /")
    for character in name:
        if unicodedata.category(character).startswith("C"):
            raise _unsafe(name, f"holds the control or invisible character U+{ord(character):04X}")
    parts = tuple(name.split("/"))
    if len(parts) > NAME_MAX_DEPTH:
        raise _unsafe(name, f"is {len(parts)} folders deep; at most {NAME_MAX_DEPTH} are allowed")
    for part in parts:
        if part in ("", "."):
            raise _unsafe(name, f"has the component {part!r}; a name may not leave its folder")
        if part != part.strip():
            raise _unsafe(name, f"has the component {part!r}, which begins or ends with a space")
        if len(part.encode()) > NAME_COMPONENT_MAX_BYTES:
            raise _unsafe(name, f"has a component of {len(part.encode())} bytes; at most {NAME_COMPONENT_MAX_BYTES}")
    return parts


def _unsafe(name: str, fault: str, breaks: str | None = None) -> UnsafeName:
    shown = name if len(name) <= 80 else name[:77] + "…"
    return UnsafeName(f"the name {shown!r} {fault}", breaks)
