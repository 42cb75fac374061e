"""What both acts of the demonstration need: who shows it, whose it is, how a plan is made ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from sluice_client.client import Json
from sluice_client.demo.story import Question
from sluice_client.errors import TimedOut
from sluice_client.installation import Installation
from sluice_client.plan_files import completed, install_scenario, read_plan
from sluice_client.sql import Table
from sluice_runtime.artifacts import open_artifact_store

TENANT = "demo"


class Teller(Protocol):
    """What shows the demonstration to people."""

    def chapter(self, title: str) -> None:
        """A new part begins."""
        ...

    def event(self, event: Json) -> None:
        """Something happened in the pipeline."""
        ...

    def remark(self, text: str) -> None:
        """Something else to know."""
        ...

    def answer(self, question: Question, table: Table) -> None:
        """A query and its answer."""
        ...

    def document(self, text: str) -> None:
        """The report."""
        ...


def plan_of(installation: Installation, folder: Path, *, scripted: bool = False) -> dict[str, Any]:
    """A folder's plan, with its files in the artifact store.

    Args:
        installation: Where it is to run.
        folder: Has `plan.yaml`.
        scripted: Whether its scenario answers even where a live model could.
    """
    file = read_plan(folder / "plan.yaml")
    store = open_artifact_store(installation.artifacts_url or "")
    plan = asyncio.run(completed(file, [], store))
    if file.scenario is not None and (scripted or installation.model_provider == "scripted"):
        plan["model"] = install_scenario(file.scenario, Path(installation.scenarios_directory or ""))
    return plan


def in_time(events: Iterator[Json | None], pipeline: str, timeout_s: float) -> Iterator[Json]:
    """A pipeline's events as they come.

    Raises:
        TimedOut: It takes too long.
    """
    until = time.monotonic() + timeout_s
    for event in events:
        if event is not None:
            yield event
        if time.monotonic() > until:
            raise TimedOut(f"pipeline {pipeline} has not ended after {timeout_s:g} s; give it longer: --timeout-s")
