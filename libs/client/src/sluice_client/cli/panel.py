"""A pipeline on a terminal: the whole status, and the live panel of `watch`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sluice_client.cli import output
from sluice_client.cli.sentences import line

RECENT_COUNT = 10
"""Lines of activity below the tasks: the panel fits a terminal of 30 lines."""

ALERTS_SHOWN_COUNT = 3
"""The newest; `sluice alerts` has all."""

REFRESH_S = 0.25
"""Between two looks at the pipeline: what a person can follow."""

View = Mapping[str, Any]


def status_view(view: View, now_ms: int | None = None) -> RenderableType:
    """A pipeline: head, tasks, questions, problem."""
    parts: list[RenderableType] = [_head(view, now_ms or time.time_ns() // 1_000_000), Text(), _tasks(view)]
    for question in view["questions"].values():
        parts += [Text(), _question(view, question)]
    parts += [part for line in _safeguards(view) for part in (Text(), line)]
    if view.get("problem"):
        problem = view["problem"]
        parts += [Text(), Text(output.clean(f"{problem['code']}: {problem['detail']}"), style="red")]
    return Group(*parts)


def _safeguards(view: View) -> Iterator[Text]:
    """The breach, the report, the diagnostics, and of a diagnostic what it is about and has found."""
    about = view.get("diagnosed")
    if about:
        yield Text(output.clean(f"diagnoses pipeline {about['pipeline_id']}"))
        yield from _findings(view.get("findings"))
    for alert in view.get("alerts", ())[-ALERTS_SHOWN_COUNT:]:
        told = f"breach at {output.clock(alert['breached_at_ms'])}: {alert['detail']} ({alert['action']})"
        yield Text(output.clean(told), style="bold red")
    for report in view.get("handoffs", ())[-1:]:
        text = Text(output.clean(f"handed off: {report['summary']}"))
        yield text.append(f"\n  sluice handoff {view['pipeline_id']}", style="dim")
    for one in view.get("diagnostics", ()):
        yield Text(output.clean(f"diagnostic {one['pipeline_id']}: {one['state']}"))
        yield from _findings(one.get("findings"))


def _findings(found: View | None) -> Iterator[Text]:
    if found:
        lines = [f"cause: {found['cause'] or found['summary']}"]
        lines += [f"  {number}. {what}" for number, what in enumerate(found["recommendations"], 1)]
        yield Text(output.clean("\n".join(output.shortened(line, 300) for line in lines)))


class WatchPanel:
    """The live panel.

    Args:
        look: Reads the pipeline's status; None where it is not known yet.
    """

    def __init__(self, look: Callable[[], View | None]) -> None:
        self._look = look
        self._recent: deque[str] = deque(maxlen=RECENT_COUNT)
        self._view: View | None = None
        self._looked_at = 0.0
        self._live = Live(console=output.console(), auto_refresh=False, transient=False)

    def __enter__(self) -> WatchPanel:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, event: Mapping[str, Any] | None, *, last: bool = False) -> None:
        """Adds an event, and looks at the pipeline again if the last look was long enough ago."""
        if event is not None:
            self._recent.append(line(event))
        if last or time.monotonic() - self._looked_at >= REFRESH_S:
            self._view = self._look() or self._view
            self._looked_at = time.monotonic()
            self._live.update(self._rendered(), refresh=True)

    def _rendered(self) -> RenderableType:
        recent = Text("\n".join(self._recent), style="dim", no_wrap=True, overflow="ellipsis")
        if self._view is None:
            return recent
        return Group(Panel(status_view(self._view), title=f"pipeline {self._view['pipeline_id']}", expand=True), recent)


def _head(view: View, now_ms: int) -> Table:
    head = Table.grid(padding=(0, 2))
    usage = view["usage"] if view["duration_ms"] is not None else _used(view)
    tokens = f"{usage['input_tokens']:,} in, {usage['output_tokens']:,} out, {output.money(usage['cost_usd'])}"
    state = Text(view["state"], style=output.STATE_STYLES.get(view["state"], ""))
    took_ms = view["duration_ms"] if view["duration_ms"] is not None else now_ms - view["spawned_at_ms"]
    head.add_row("state", state + Text(output.clean(f"  {view['reason']}"), style="dim"))
    head.add_row("objective", Text(output.shortened(view["objective"], 300)))
    still = "" if view["duration_ms"] is not None else " so far"
    head.add_row("spawned", Text(f"{output.moment(view['spawned_at_ms'])} UTC; took {output.duration(took_ms)}{still}"))
    head.add_row("tokens", Text(tokens))
    if view["labels"]:
        head.add_row(
            "labels", Text(output.clean(", ".join(f"{name}={value}" for name, value in view["labels"].items())))
        )
    return head


def _used(view: View) -> dict[str, float]:
    names = ("input_tokens", "output_tokens", "cost_usd")
    return {name: sum(agent["usage"][name] for agent in view["agents"].values()) for name in names}


def _tasks(view: View) -> Table:
    agents: Mapping[str, View] = view["agents"]
    rows = []
    for task in view["tasks"].values():
        agent = agents.get(task["agent_id"] or "", {})
        lost = agent.get("attempts_lost", 0)
        usage = task["usage"] if task["usage"]["input_tokens"] else agent.get("usage", task["usage"])
        said = task["summary"] or (f"{task['problem']['code']}: {task['problem']['detail']}" if task["problem"] else "")
        rows.append(
            (
                task["task_id"],
                task["role"],
                task["status"],
                f"{task['attempt']}{f' ({lost} lost)' if lost else ''}",
                task["turns"] or agent.get("turns", 0),
                f"{usage['input_tokens'] + usage['output_tokens']:,}",
                output.shortened(said, 120),
            )
        )
    return output.table(("task", "role", "status", "attempt", "turns", "tokens", "outcome"), rows)


def _question(view: View, question: View) -> Text:
    text = Text("waits for an answer: ", style="bold magenta")
    text.append(output.clean(question["question"]), style="default")
    if question["options"]:
        text.append(output.clean(f"  [{' | '.join(question['options'])}]"))
    text.append(f"\n  sluice answer {view['pipeline_id']} --question {question['question_id']} ANSWER", style="dim")
    return text
