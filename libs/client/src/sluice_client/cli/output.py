"""What people and programs read: tables, lines, JSON. Colours on a terminal only."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from sluice_client.client import Accepted

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that steer a terminal, or turn the direction of text: what agents and logs say must not do that."""

STATE_STYLES: Mapping[str, str] = {
    "COMPLETED": "green", "succeeded": "green", "SUCCEEDED": "green",
    "FAILED": "bold red", "failed": "bold red", "ERROR": "bold red", "CANCELLED": "yellow", "cancelled": "yellow",
    "RUNNING": "cyan", "running": "cyan", "BUSY": "cyan", "assigned": "blue", "WAITING": "magenta",
    "NEEDS_INPUT": "bold magenta", "skipped": "dim", "pending": "dim", "TERMINATED": "dim",
}  # fmt: skip
"""How states look, wherever they stand."""


def clean(value: Any) -> str:
    """A value as text that can't steer a terminal."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def say(text: str = "") -> None:
    """A line for people, on standard output."""
    print(clean(text), flush=True)


def note(text: str) -> None:
    """A line for people beside the result, on standard error."""
    print(clean(text), file=sys.stderr, flush=True)


def data(value: Any) -> None:
    """One JSON document."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str), flush=True)


def data_line(value: Any) -> None:
    """One JSON document on one line."""
    print(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str), flush=True)


def told(accepted: Accepted, what: str, as_json: bool) -> None:
    """The answer to a command; where its effect was not waited for, or not seen in time, that it can't be lost."""
    if as_json:
        data(asdict(accepted))
    else:
        say(what if accepted.state else f"{what}; the command is durable")


def raw(body: bytes) -> None:
    """Bytes as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


def error(message: str, *, as_json: bool, code: str) -> None:
    """What went wrong, on standard error."""
    if as_json:
        print(json.dumps({"error": code, "detail": message}, ensure_ascii=False), file=sys.stderr)
    else:
        prefix = "\x1b[1;31msluice:\x1b[0m" if colours(sys.stderr) else "sluice:"
        print(f"{prefix} {clean(message)}", file=sys.stderr)


def usage(message: str, *, as_json: bool) -> None:
    """How the command wants to be called, on standard error: a fault, or the help of a group of commands."""
    if message.startswith("Usage:") and not as_json:
        print(message, file=sys.stderr)
    else:
        error(message, as_json=as_json, code="usage")


def quiet_end() -> None:
    """After the reader of standard output has left: nothing more can be written, and nobody need hear of it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def colours(stream: Any) -> bool:
    """Whether a stream is a terminal that wants colours (https://no-color.org)."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def on_terminal() -> bool:
    """Whether a person looks at standard output."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def console() -> Console:
    """Rich's door to standard output."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 10_000
    return Console(width=width, highlight=False, markup=False, emoji=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """A table, one line for each row where it is wide enough. Nothing of the values is taken for markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(
            *[Text(text := clean(value).replace("\n", " "), style=STATE_STYLES.get(text, "")) for value in row]
        )
    return made


def show(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Prints a table."""
    made = table(columns, rows)
    if not sys.stdout.isatty():
        made.box = None
    render(made)


def render(made: RenderableType) -> None:
    """Prints what Rich has laid out. Without a terminal, lines have no blanks at their ends."""
    paper = console()
    if sys.stdout.isatty():
        paper.print(made)
        return
    with paper.capture() as captured:
        paper.print(made)
    for line in captured.get().splitlines():
        print(line.rstrip())
    sys.stdout.flush()


def shortened(text: Any, most: int) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(clean(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def ago(time_ms: int, now_ms: int) -> str:
    """How long ago, roughly."""
    return duration(max(0, now_ms - time_ms))


def duration(span_ms: int) -> str:
    """A span of time, roughly: two units at most."""
    seconds = span_ms / 1_000
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours, days = seconds // 60, seconds // 3_600, seconds // 86_400
    if hours < 1:
        return f"{minutes:.0f} min {seconds % 60:.0f} s"
    return f"{hours:.0f} h {minutes % 60:.0f} min" if days < 1 else f"{days:.0f} d {hours % 24:.0f} h"


def clock(time_ms: int) -> str:
    """The time of day in UTC, with milliseconds."""
    seconds, milliseconds = divmod(int(time_ms), 1_000)
    return f"{seconds // 3_600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{milliseconds:03d}"


def moment(time_ms: int) -> str:
    """Date and time in UTC, to the second."""
    from datetime import datetime, timezone

    return datetime.fromtimestamp(int(time_ms) / 1_000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")


def money(value: float) -> str:
    """US dollars, to a hundredth of a cent."""
    return f"${value:,.4f}"
