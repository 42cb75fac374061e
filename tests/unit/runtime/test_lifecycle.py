"""A process starts, stops and ends as its exit code says; tried with real processes and real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pytest

from sluice_runtime.lifecycle import EXIT_FAILED, EXIT_SETTINGS, EXIT_STOPPED

PROGRAM = """
import asyncio, logging, sys
from sluice_runtime.lifecycle import run_service
from sluice_runtime.settings import ServiceSettings
async def main(settings, stop):
    print("running", flush=True)
    match sys.argv[1]:
        case "graceful":
            await stop.wait()
            print("finished what was under way", flush=True)
        case "stubborn":
            await stop.wait()
            print("stopping", flush=True)
            await asyncio.Event().wait()
        case "failing":
            raise OSError("token=hunter2hunter2")
        case "failing while it stops":
            await stop.wait()
            raise OSError("the broker is away")
        case "returning":
            pass
sys.exit(run_service("example", ServiceSettings, main))
"""


@contextmanager
def service(mode: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    settings = {"SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", **environment}
    command = [sys.executable, "-c", PROGRAM, mode]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**kept, **settings}
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


def end(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]]]:
    _, logged = process.communicate(timeout=60)
    return process.returncode, [json.loads(line) for line in logged.splitlines()]


@pytest.mark.covers("D1")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_finish(number: signal.Signals) -> None:
    with service("graceful") as process:
        assert read(process.stdout) == "running"
        process.send_signal(number)
        assert read(process.stdout) == "finished what was under way"
        code, lines = end(process)
    assert code == EXIT_STOPPED
    assert [line["message"] for line in lines] == [f"asked to stop by {number.name}", "stopped"]


def test_a_second_signal_cuts_it_off() -> None:
    with service("stubborn") as process:
        assert read(process.stdout) == "running"
        process.send_signal(signal.SIGTERM)
        assert read(process.stdout) == "stopping"
        process.send_signal(signal.SIGTERM)
        code, lines = end(process)
    assert code == EXIT_FAILED
    assert "cut off" in lines[-1]["message"]


@pytest.mark.covers("O7")
@pytest.mark.parametrize("mode", ["failing", "returning"])
def test_an_error_ends_the_process_with_one_line_that_says_what_to_do(mode: str) -> None:
    with service(mode) as process:
        code, lines = end(process)
    assert code == EXIT_FAILED
    (line,) = lines
    assert (line["level"], line["service"]) == ("critical", "example")
    assert "start it again" in line["message"]
    assert "hunter2" not in json.dumps(line)
    assert line["error"]["stack"]


def test_an_error_while_it_stops_is_an_error() -> None:
    with service("failing while it stops") as process:
        assert read(process.stdout) == "running"
        process.send_signal(signal.SIGTERM)
        code, lines = end(process)
    assert code == EXIT_FAILED
    assert lines[-1]["error"]["message"] == "the broker is away"


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SLUICE_HTTP_PORT", "many"), ("SLUICE_KAFKA_BOOTSTRAP_SERVERS", ""), ("SLUICE_KAFKA_CREDENTIALS_FILE", "/none")],
)
def test_wrong_settings_end_it_before_it_begins(variable: str, value: str) -> None:
    with service("graceful", **{variable: value}) as process:
        code, lines = end(process)
    assert code == EXIT_SETTINGS
    assert variable in lines[0]["message"]


def test_a_missing_credentials_file_is_a_wrong_setting() -> None:
    with service("graceful", SLUICE_KAFKA_BOOTSTRAP_SERVERS="", SLUICE_KAFKA_CREDENTIALS_FILE="/none.json") as process:
        code, lines = end(process)
    assert code == EXIT_SETTINGS
    assert "/none.json" in lines[0]["message"]
