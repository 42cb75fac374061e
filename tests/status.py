"""Generates docs/status.md: which labels of the specification are proved, by which tests.

`python -m tests.status` writes it, `--check` says whether it is current. Read from the tests' source, so that it does
not depend on what happened to run: a test that needs something which a machine may lack says so with `needs`; it proves
nothing here, and is listed apart.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "status.md"

LABELS = {
    "P1": "life cycle", "P2": "auto_continue", "P3": "task definition", "P4": "workflow as a graph",
    "P5": "runtime change of the graph", "P6": "templates", "P7": "auto-decomposition", "P8": "hierarchy",
    "P9": "budgets", "P10": "human in the loop", "P11": "quality gates", "P12": "checkpoints, resume, replay",
    "P13": "limits", "P14": "tenants", "P15": "supervision", "P16": "cost prediction",
    "A1": "roles of the core team", "A2": "GAMMA's handoff", "A3": "agent states", "A4": "blackboard",
    "A5": "messages", "A6": "consensus", "A7": "locks", "A8": "metrics per pipeline",
    "W1": "roles as data", "W2": "queues per role", "W3": "model providers", "W4": "tools", "W5": "sandbox",
    "W6": "workspaces", "W7": "artifacts", "W8": "context management", "W9": "semantic validation",
    "W10": "work is leased",
    "V1": "a token per pipeline", "V2": "policy", "V3": "tree of tokens", "V4": "sealed hand-over",
    "V5": "revocation by what is observed", "V6": "reconciler", "V7": "every use recorded", "V8": "Vault away",
    "O1": "event log", "O2": "views for analysts", "O3": "reading", "O4": "error budgets", "O5": "handoff reports",
    "O6": "diagnostic pipelines", "O7": "metrics, traces, logs", "O8": "live stream", "O9": "evaluation",
    "U1": "HTTP", "U2": "CLI", "U3": "dashboard", "U4": "workflow editor", "U5": "Python client",
    "C1": "contract", "C2": "bad input", "C3": "dead letters",
    "D1": "deployment", "D2": "Kafka principals", "D3": "releases side by side", "D4": "embedded default",
}  # fmt: skip

IN_PART = {
    "P1": "no ORCHESTRATING",
    "P3": "no `validation`; `no-secrets` and `sandbox-only` forbid effects that no tool has yet",
    "P9": "a task's own budget; no tree of budgets",
    "P10": "questions with options, deadline and default; no approvals, escalation, notification",
    "P12": "resume; no forks",
    "P13": "limits of pipeline, installation, task and turns; no message timeout, for there are no messages yet",
    "P14": "every event has a tenant; no quotas, no fair scheduling, no isolation in HTTP or SQL",
    "A3": "created, busy, waiting, succeeded, error, terminated; no phases, progress, pause, hand-over, other names",
    "A4": "set, get, list, delete; conflicts are settled by policy; no watch, no settlement by GAMMA",
    "W1": "roles as files; the teams' roles are not shipped",
    "W3": "scripted, and OpenAI-compatible against a local endpoint, never tried with a live model; no Anthropic API, "
    "`recorded`, fallback models, rate limits of our own",
    "W4": "list, read, search, write an artifact, the blackboard, ask a person, finish",
    "W5": "no tool runs a program; no secret in an environment",
    "W6": "workspaces of files; no git",
    "V4": "sealed grants, canaries; a sandbox for tools that run programs comes with W5",
    "O1": "embedded; a ClickHouse server is written and unrun; prompts of calls that failed are not kept",
    "O2": "views of what is built",
    "O3": "no row policies per tenant",
    "O5": "no blackboard in the report yet",
    "O7": "metrics, logs, trace context through headers; no exporter, alerts, dashboards",
    "O8": "the events of the topics, filtered and resumed",
    "U1": "spawn, cancel, answer, tick, revoke, renew, status, tasks, agents, events, logs, artifacts, errors, "
    "token, alerts, handoff, diagnostic; no keys and scopes",
    "U2": "no approve, continue, fork, templates, workspace, retry",
    "U5": "Python; other languages by the contract alone",
    "C1": "no sample producers in other languages, no conformance command",
    "C3": "by CLI and SQL; HTTP lists them",
    "D1": "images and compose are written and unrun; no Helm",
}
"""What of a label is there, or what of it is not, where tests prove a part."""


@dataclass(frozen=True, order=True)
class Proof:
    """One test that names a label."""

    label: str
    test: str
    needs: tuple[str, ...]


def proofs() -> Iterator[Proof]:
    """Every mark of every test function and test module."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        module_marks = [mark for node in tree.body for mark in _module_marks(node)]
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                marks = module_marks + [mark for one in node.decorator_list for mark in _mark(one)]
                needs = tuple(sorted({thing for name, things in marks if name != "covers" for thing in things}))
                where = f"{path.relative_to(ROOT)}::{node.name}"
                for label in sorted({label for name, labels in marks if name == "covers" for label in labels}):
                    yield Proof(label, where, needs)


def _module_marks(node: ast.stmt) -> Iterator[tuple[str, list[str]]]:
    if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == "pytestmark" for to in node.targets):
        values = node.value.elts if isinstance(node.value, ast.List) else [node.value]
        for value in values:
            yield from _mark(value)


def _mark(node: ast.expr) -> Iterator[tuple[str, list[str]]]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("covers", "needs"):
        yield node.func.attr, [one.value for one in node.args if isinstance(one, ast.Constant)]  # type: ignore[attr-defined]


def render() -> str:
    """The page."""
    by_label: dict[str, list[Proof]] = defaultdict(list)
    for proof in proofs():
        by_label[proof.label].append(proof)
    unknown = sorted(set(by_label) - set(LABELS))
    if unknown:
        raise SystemExit(f"tests name labels that the specification does not have: {unknown}")
    lines = [
        "# Status",
        "",
        "Generated from the tests by `python -m tests.status`; do not edit. *Proved*: the whole label, by the named",
        "tests, which run in `make test` everywhere. *In part*: what is there, and what is not. *Absent*: nothing is",
        "built. *Skipped without*: tests that a machine runs only if it has the named thing; they prove nothing here.",
        "`mount` is the right to mount a file system (root's), `clickhouse_server` a named one, or Docker.",
        "",
        "| label | subject | state | tests | skipped without |",
        "|---|---|---|---|---|",
    ]
    for label, subject in LABELS.items():
        found = by_label.get(label, [])
        run = [proof for proof in found if not proof.needs]
        state = "absent"
        if run:
            state = f"in part: {IN_PART[label]}" if label in IN_PART else "proved"
        elif found:
            state = "written, proved nowhere yet"
        things = sorted({proof.needs for proof in found if proof.needs})
        skipped = [
            f"{' and '.join(needs)}: {_files(proof for proof in found if proof.needs == needs)}" for needs in things
        ]
        lines.append(f"| {label} | {subject} | {state} | {_files(run)} | {'; '.join(skipped)} |")
    return "\n".join(lines) + "\n"


def _files(found: Iterable[Proof]) -> str:
    counts = Counter(proof.test.partition("::")[0].removeprefix("tests/") for proof in found)
    return ", ".join(f"`{name}` ({count})" for name, count in sorted(counts.items()))


def main(arguments: list[str]) -> int:
    """Writes or checks the page."""
    page = render()
    if "--check" in arguments:
        return 0 if PAGE.exists() and PAGE.read_text() == page else 1
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
