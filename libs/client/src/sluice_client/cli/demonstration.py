"""`demo`: three agents on the shipped incident, a service killed in the middle, the story from SQL."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sluice_client.cli import options, output
from sluice_client.cli.exits import ERROR, OK

if TYPE_CHECKING:
    from sluice_client.client import Json
    from sluice_client.demo.flow import Outcome
    from sluice_client.demo.story import Question
    from sluice_client.sql import Table

DEMO_FOLDER = "demo"
TIMEOUT_S = 600.0
"""A live model takes minutes; the scenario some twenty seconds."""


def demo(
    kill: Annotated[
        str, typer.Option("--kill", help="The service to kill in the middle: agent-runner, spawner, store, or none.")
    ] = "agent-runner",
    incident: Annotated[
        Path | None, typer.Option("--incident", metavar="DIRECTORY", help="Another one, as generate.py writes it.")
    ] = None,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=1, help="For the pipeline.")] = TIMEOUT_S,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIRECTORY", help="Emptied first; default .sluice/demo.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Show all of it on a real incident: agents, a service killed in the middle, the story from SQL, the report; then
    a pipeline that breaks its error budget, loses its credentials, is handed off and diagnosed.

    With OPENROUTER_API_KEY a live model answers. Exit code 1 if something that must hold does not.
    """
    from sluice_client.cli.progress import StepLines
    from sluice_client.demo.flow import VICTIMS, demonstrate
    from sluice_client.demo.incident import incident_directory
    from sluice_client.errors import InputInvalid
    from sluice_client.installation import default_data_directory

    victims = {one: one for one in VICTIMS}
    if kill not in victims:
        raise InputInvalid(f"--kill {kill!r}: there are {', '.join(VICTIMS)}")
    directory = (data or default_data_directory().with_name(DEMO_FOLDER)).absolute()
    began = time.monotonic()
    teller = _Printer(quiet=as_json)
    outcome = demonstrate(
        directory, incident_directory(incident), victims[kill], teller, StepLines(), timeout_s=timeout_s
    )
    seconds = time.monotonic() - began
    if as_json:
        output.data({**asdict(outcome), "holds": outcome.holds, "total_seconds": round(seconds, 1)})
    else:
        _verdict(outcome, teller, directory, seconds)
    raise typer.Exit(OK if outcome.holds else ERROR)


class _Printer:
    """Shows the demonstration on standard output."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._colours = output.colours(sys.stdout)

    def chapter(self, title: str) -> None:
        self._print(f"\n{self._styled('1', f'── {title} ──')}")

    def event(self, event: Json) -> None:
        from sluice_client.cli.sentences import line

        if event["type"] not in ("agent.state_changed", "agent.created"):
            self._print("  " + output.clean(line(event)))

    def remark(self, text: str) -> None:
        self._print(self._styled("1;33", f"▶ {output.clean(text)}"))

    def answer(self, question: Question, table: Table) -> None:
        if not self._quiet:
            print(f"\n{self._styled('1', question.title)}")
            print(self._styled("2", "\n".join(f"  {line}" for line in question.sql.splitlines())))
            output.show(table.columns, table.rows)
            sys.stdout.flush()

    def document(self, text: str) -> None:
        for line in text.splitlines():
            self._print("  " + output.clean(line))

    def finding(self, holds: bool, text: str) -> None:
        """One line of the verdict."""
        self._print(f"{self._styled('32', '✓') if holds else self._styled('1;31', '✗')} {output.clean(text)}")

    def _styled(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colours else text

    def _print(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)


def _verdict(outcome: Outcome, teller: _Printer, directory: Path, seconds: float) -> None:
    teller.chapter("What must hold")
    for finding in outcome.findings:
        teller.finding(finding.holds, f"{finding.what}: {finding.found}")
    output.say(f"\npipeline {outcome.pipeline_id}: {outcome.seconds:.1f} s; all together {seconds:.1f} s")
    shown = directory.relative_to(Path.cwd()) if directory.is_relative_to(Path.cwd()) else directory
    output.say("\nThe data is kept until the next demo. Look around in it:")
    sluice = _command()
    query = f"SELECT * FROM pipeline_story WHERE pipeline_id = '{outcome.pipeline_id}'"
    output.say(f"  {sluice} up --detach --data {shown}")
    output.say(f"  {sluice} watch {outcome.pipeline_id} --data {shown}")
    output.say(f"  {sluice} artifacts {outcome.pipeline_id} --save report --data {shown}")
    if outcome.broken_id:
        output.say(f"  {sluice} status {outcome.broken_id} --data {shown}")
        output.say(f"  {sluice} handoff {outcome.broken_id} --data {shown}")
    output.say(f'  {sluice} sql "{query}" --data {shown}')
    output.say(f"  {sluice} down --data {shown}")
    output.say("Change a line in examples/incident/logs, or have another hour investigated:")
    output.say("  python3 examples/incident/generate.py --seed 8 --out /tmp/incident")
    output.say(f"  {sluice} demo --incident /tmp/incident")


def _command() -> str:
    """How this command is called from here: `make` starts it without a place in PATH."""
    own = Path(sys.executable).with_name("sluice")
    if shutil.which("sluice") is not None or not own.is_file():
        return "sluice"
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def add_to(app: typer.Typer) -> None:
    """Makes the command known."""
    app.command()(demo)
