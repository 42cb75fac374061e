"""The command's interface: options, exit codes, what is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from sluice_client.cli import app, output, run
from sluice_client.cli.exits import EPILOG, exit_code
from sluice_client.cli.sentences import _SENTENCES, sentence
from sluice_client.errors import Refused
from sluice_client.following import _NOT_TOLD
from sluice_contracts.topics import AGENT_EVENTS, ALERTS, PIPELINE_EVENTS, REPORTS, SIGNALS, TOKEN_EVENTS


def commands(group: object = None, name: str = "sluice") -> Iterator[tuple[str, TyperCommand]]:
    group = group or get_command(app)
    assert isinstance(group, TyperGroup)
    for key, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{name} {key}")
        else:
            assert isinstance(command, TyperCommand)
            yield f"{name} {key}", command


ALL = dict(commands())


@pytest.mark.covers("U2")
def test_the_commands_are_there() -> None:
    wanted = ["up", "down", "doctor", "run", "status", "list", "watch", "events", "logs", "artifacts", "sql"]
    wanted += ["tick", "answer", "cancel", "demo", "revoke", "renew", "tokens", "alerts", "handoff", "diagnose"]
    wanted += ["topics list", "topics apply", "dlq list", "dlq show", "dlq replay", "vault apply", "vault put-key"]
    wanted += ["budgets list", "budgets set"]
    assert set(ALL) == {f"sluice {name}" for name in wanted}


@pytest.mark.covers("U2")
@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_speaks_json_and_is_described(name: str) -> None:
    assert "as_json" in {parameter.name for parameter in ALL[name].params}
    assert ALL[name].help
    undescribed = [one.name for one in ALL[name].params if not getattr(one, "help", None)]
    assert not undescribed


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["no-such-command"], 2),
        (["status"], 2),
        (["run"], 2),
        (["run", "--objective", "x", "plan.yaml"], 2),
        (["list"], 6),
        (["sql", "SELECT 1"], 6),
        (["dlq", "replay"], 2),
        (["vault", "apply"], 6),
        (["vault", "put-key"], 2),
        (["--url", "x"], 2),
        (["status", "p", "--url", "nonsense"], 2),
        (["status", "p", "--url", "http://127.0.0.1:9"], 6),
        (["demo", "--kill", "kafka"], 2),
        (["down"], 0),
        (["--help"], 0),
        (["--version"], 0),
    ],
)
def test_exit_codes(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLUICE_URL", raising=False)
    monkeypatch.delenv("SLUICE_DATA_DIRECTORY", raising=False)
    assert run(arguments) == code
    told = capsys.readouterr().err
    assert len(told.splitlines()) == (0 if code == 0 else 1)
    if code:
        assert run([*arguments, "--json"]) == code
        assert json.loads(capsys.readouterr().err)["detail"]


def test_a_defect_is_shown_whole() -> None:
    assert exit_code(ZeroDivisionError()) is None
    assert exit_code(Refused("no", 422, {})) == 5
    assert all(f" {code} " in EPILOG for code in (0, 1, 2, 3, 4, 5, 6, 7, 130))


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    environment = {**os.environ, "SLUICE_DATA_DIRECTORY": str(tmp_path / "none")}
    listing = subprocess.Popen(
        [sys.executable, "-m", "sluice_client", "topics", "list"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert listing.stdout is not None
    listing.stdout.close()
    _, told = listing.communicate(timeout=60)
    assert listing.returncode == 0, told
    assert b"Traceback" not in told


@pytest.mark.covers("O8")
def test_every_event_of_the_stream_has_a_sentence() -> None:
    rows = (PIPELINE_EVENTS, AGENT_EVENTS, TOKEN_EVENTS, ALERTS, SIGNALS, REPORTS)
    types = {message.type for row in rows for message in row.messages} - _NOT_TOLD
    assert types == set(_SENTENCES)
    for kind in types:
        sentence({"type": kind, "data": {}})


@pytest.mark.covers("V7")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("token.request", "to the pipeline: "),
        ("token.revoke", "revocation of the pipeline: "),
        ("token.renew", "renewal"),
    ],
)
def test_a_denial_says_what_was_denied(command: str, said: str) -> None:
    told = sentence({"type": "token.denied", "data": {"command": command, "problem": {"code": "c", "detail": "d"}}})
    assert said in told


def test_what_agents_say_does_not_steer_the_terminal() -> None:
    told = {
        "type": "agent.succeeded",
        "data": {"agent_id": "a", "summary": "\x1b[2J\x1b]0;x\x07 \u202egpj.exe\r\nnext"},
    }
    assert not any(character in sentence(told) for character in "\x1b\x07\r\n\u202e")
    assert output.clean("a\tb\nc") == "a\tb\nc"


@pytest.mark.parametrize(
    ("span_ms", "text"),
    [(900, "0.9 s"), (59_000, "59 s"), (61_000, "1 min 1 s"), (3_700_000, "1 h 1 min"), (90_000_000, "1 d 1 h")],
)
def test_durations(span_ms: int, text: str) -> None:
    assert output.duration(span_ms) == text
