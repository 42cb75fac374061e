"""The demonstration, as `make demo` runs it, on an hour that is not the shipped one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sluice_client.demo.incident import first_error
from tests.integration.client.sluice import INCIDENT, Sluice


@pytest.fixture
def incident(tmp_path: Path) -> Path:
    """Another hour, as the demonstration's last hint has it written."""
    directory = tmp_path / "incident"
    arguments = ["--seed", "11", "--deploy-at", "13:49", "--out", str(directory)]
    subprocess.run([sys.executable, str(INCIDENT / "generate.py"), *arguments], check=True)
    return directory


def demo(directory: Path, incident: Path, victim: str) -> tuple[int, str]:
    sluice = Sluice(directory / "demo")
    ran = sluice("demo", "--kill", victim, "--incident", str(incident), "--data", str(sluice.data))
    assert sluice.processes() == []
    return ran.code, ran.out + ran.err


@pytest.mark.covers("U2", "P12", "W3", "W4", "D4")
@pytest.mark.timeout(300)
def test_it_finds_the_first_error_though_a_service_is_killed(tmp_path: Path, incident: Path) -> None:
    code, told = demo(tmp_path, incident, "agent-runner")
    assert code == 0, told
    assert f"`{first_error(incident).place}`" in told
    assert "agent-runner was killed with -9, and is back" in told


@pytest.mark.covers("W3")
@pytest.mark.timeout(300)
def test_a_changed_log_changes_the_answer(tmp_path: Path, incident: Path) -> None:
    log = incident / "logs" / "orders.log"
    lines = log.read_text().splitlines(keepends=True)
    lines.insert(3, f"{lines[2][:24]} ERROR [orders-5f6d-1] req=00000000 somebody put an error here\n")
    log.write_text("".join(lines))
    code, told = demo(tmp_path, incident, "none")
    assert code == 1
    assert "scenario_assertion_failed" in told
    assert "somebody put an error here" in told
