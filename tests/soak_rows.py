"""The table of docs/soak.md: one line for each round, replaced when the round is run again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "soak.md"
HEAD = """# Soak

Written by `make soak`. After each round the laws of `tests/history.py` are checked on every record of every
topic (nothing lost, one terminal event per pipeline, one content per id, order, no finished turn
run again), and the event log against the topics by set equality. In the rounds of the gate (the vault-broker's
windows, Vault, the runner with grants) the laws of `tests/credentials.py` are checked in place of the event log: each
request answered once, each granted token revoked or expired once; and in Vault no token, policy or entity is left of a
pipeline that has ended. One instance of each service. `python -m tests.soak --only NAME` runs some rounds; the lines of
the others stay.

| what | count | seeds | faults found | minutes |
|---|---|---|---|---|
"""


@dataclass
class Row:
    """One line of the table."""

    what: str
    count: int
    seeds: str
    faults: str
    minutes: float

    @property
    def name(self) -> str:
        """What stays the same when it is run again."""
        return self.what.partition(",")[0]

    def line(self) -> str:
        return f"| {self.what} | {self.count} | {self.seeds} | {self.faults} | {self.minutes:.1f} |"


def write(rows: Iterable[Row]) -> None:
    """Puts lines into the page."""
    lines = {}
    if PAGE.exists():
        told = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
        lines = {line.removeprefix("| ").partition(" |")[0].partition(",")[0]: line for line in told}
    lines |= {row.name: row.line() for row in rows}
    PAGE.write_text(HEAD + "\n".join(lines.values()) + "\n")
