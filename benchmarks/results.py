"""What a measure says: one row of the table, one entry of results.json."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be reached: of the ratio where there is something to compare with, else of the value."""

    relation: str
    bound: float
    of_ratio: bool = True

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}{'×' if self.of_ratio else ''}"

    def reached(self, value: float, ratio: float | None) -> bool:
        """Whether it is reached.

        Raises:
            ValueError: The goal is one of the ratio, and there is none.
        """
        found = ratio if self.of_ratio else value
        if found is None:
            raise ValueError(f"goal {self} compares, and nothing was measured to compare with")
        return found >= self.bound if self.relation == "≥" else found <= self.bound


def at_least(times: float) -> Goal:
    """The ratio is this much or more."""
    return Goal("≥", times)


def at_most(times: float) -> Goal:
    """The ratio is this much or less."""
    return Goal("≤", times)


@dataclass(frozen=True, slots=True)
class Result:
    """One measured figure.

    Attributes:
        against: What ran beside it, in the same run; None where there is no peer and no floor.
        ratio: value / against_value.
        note: How it was measured, and what bounds it.
    """

    measure: str
    value: float
    unit: str
    against: str | None
    against_value: float | None
    ratio: float | None
    goal: str | None
    reached: bool | None
    note: str


def result(
    measure: str,
    value: float,
    unit: str,
    *,
    goal: Goal | None = None,
    against: str | None = None,
    against_value: float | None = None,
    note: str = "",
) -> Result:
    """Makes a row; ratio and verdict follow from the figures."""
    ratio = None if against_value is None else value / against_value
    return Result(
        measure, round(value, 3), unit, against,
        None if against_value is None else round(against_value, 3),
        None if ratio is None else round(ratio, 2),
        None if goal is None else str(goal),
        None if goal is None else goal.reached(value, ratio),
        note,
    )  # fmt: skip


def listed(figures: Iterable[float]) -> str:
    """The figures of all rounds, for a note."""
    return "/".join(f"{figure:,.0f}" for figure in figures)


def percentile(figures: Iterable[float], share: float) -> float:
    """The smallest figure that this share of them does not exceed."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def cpu_split(rounds: Sequence[Mapping[str, float]]) -> str:
    """Milliseconds of processor time, in all and by process: the medians of the rounds."""
    parts = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    named = ", ".join(f"{name} {taken:.2f}" for name, taken in parts.items() if taken >= 0.005)
    return f"{sum(parts.values()):.2f} ms of processor ({named})"


def write(found: Iterable[Result], path: Path = RESULTS) -> None:
    """Writes results; a measure that was not run keeps its last entry."""
    kept = {entry["measure"]: entry for entry in json.loads(path.read_text())} if path.exists() else {}
    kept |= {one.measure: asdict(one) for one in found}
    path.write_text(json.dumps(list(kept.values()), ensure_ascii=False, indent=1) + "\n")


def table(found: Sequence[Result]) -> str:
    """The results for people."""
    rows = [("measure", "value", "unit", "against", "its value", "ratio", "goal", "reached")]
    for one in found:
        verdict = "" if one.reached is None else ("yes" if one.reached else "no")
        rows.append((
            one.measure, f"{one.value:,.4g}" if one.value < 1_000 else f"{one.value:,.0f}", one.unit,
            one.against or "–", "" if one.against_value is None else f"{one.against_value:,.4g}",
            "" if one.ratio is None else f"{one.ratio:.2f}×", one.goal or "–", verdict,
        ))  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines + [""] + [f"{one.measure}: {one.note}" for one in found if one.note])
