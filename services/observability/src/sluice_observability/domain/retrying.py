"""How long to wait before trying again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubling waits, bounded. Without jitter: one store speaks to one database."""

    first_s: float = 0.1
    max_s: float = 5.0

    def wait_s(self, failures: int) -> float:
        """The wait after so many failures in a row, from 1."""
        return float(min(self.max_s, self.first_s * 2 ** min(failures - 1, 16)))
