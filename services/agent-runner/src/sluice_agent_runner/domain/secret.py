"""A secret that shows itself to nobody by accident."""

from __future__ import annotations

from typing import NoReturn


class Secret:
    """A token or a key, in this process's memory and nowhere else.

    Guarantee: neither its `repr` nor its text, a format, a pickle or a copy holds the value; only `reveal` gives it.

    Args:
        value: The secret.
    """

    __slots__ = ("_reveal",)

    def __init__(self, value: str) -> None:

        def reveal() -> str:
            return value

        # A closure: whoever walks over attributes, as serialisers do, finds a function.
        self._reveal = reveal

    def reveal(self) -> str:
        """The secret itself: for the header of one request, and for a redactor."""
        return self._reveal()

    def __repr__(self) -> str:
        return "Secret()"

    __str__ = __repr__

    def __format__(self, specification: str) -> str:
        return repr(self)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is neither pickled nor copied")
