"""The shipped incident: current, and true to its story in every variation."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from sluice_agent_runner.adapters.scenarios import read_scenario
from sluice_client.demo.incident import FirstError, first_error, incident_directory
from sluice_client.errors import InputInvalid

INCIDENT = Path(__file__).resolve().parents[3] / "examples" / "incident"
SIZE_MAX_BYTES = 600_000


def generated(out: Path, *arguments: str) -> Path:
    subprocess.run([sys.executable, str(INCIDENT / "generate.py"), "--out", str(out), *arguments], check=True)
    return out


def files(directory: Path) -> dict[str, bytes]:
    found = [*directory.rglob("*.log"), directory / "runbook.md", *directory.glob("config/*")]
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def test_the_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    shipped = files(INCIDENT)
    assert files(generated(tmp_path)) == shipped
    assert sum(map(len, shipped.values())) < SIZE_MAX_BYTES
    assert 3_000 < sum(body.count(b"\n") for body in shipped.values()) < 6_000


@pytest.mark.parametrize("seed", [7, 1, 2, 3])
@pytest.mark.parametrize("deploy_at", ["13:45", "14:07", "14:20"])
def test_the_first_error_is_not_the_loudest_and_follows_the_change(tmp_path: Path, seed: int, deploy_at: str) -> None:
    directory = generated(tmp_path, "--seed", str(seed), "--deploy-at", deploy_at)
    first = first_error(directory)
    assert first.place.startswith("logs/payments.log:")
    errors = Counter({log.stem: log.read_text().count(" ERROR ") for log in (directory / "logs").iterdir()})
    assert errors.most_common(1)[0][0] == "gateway"
    changes = (directory / "deploy/changes.log").read_text().splitlines()
    before = [line for line in changes if " payments " in line and line[:19] < first.at]
    assert "database.pool.max_size: 40 -> 4" in before[-1]
    warnings = [
        line[:23] for log in (directory / "logs").iterdir() for line in log.read_text().splitlines() if " WARN " in line
    ]
    assert min(warnings) < f"2025-11-18T{deploy_at}"


def test_the_scenario_is_one() -> None:
    scenario = read_scenario(INCIDENT / "scenario.yaml")
    assert all(scenario.script("any", task) for task in ("find-first-error", "find-what-changed", "write-report"))


def test_a_report_names_a_line_and_not_one_that_begins_alike() -> None:
    first = FirstError("t", "logs/a.log:54", "")
    assert first.is_named_in("see `logs/a.log:54`.")
    assert not first.is_named_in("see logs/a.log:543")


def test_an_incident_is_found_or_named(tmp_path: Path) -> None:
    assert incident_directory(None, tmp_path) == INCIDENT
    with pytest.raises(InputInvalid, match=r"no plan\.yaml; write one: .*generate\.py --out"):
        incident_directory(tmp_path)
    assert incident_directory(generated(tmp_path / "other", "--seed", "8")) == tmp_path / "other"
    assert (tmp_path / "other" / "scenario.yaml").read_bytes() == (INCIDENT / "scenario.yaml").read_bytes()
    (tmp_path / "logs").mkdir()
    with pytest.raises(InputInvalid, match="no log has an error"):
        first_error(tmp_path)
