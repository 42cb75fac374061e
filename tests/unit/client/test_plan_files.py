"""Plans as people write them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from sluice_client.errors import InputInvalid
from sluice_client.plan_files import PlanFile, check_plan, completed, files_at, install_scenario, read_plan, stored
from sluice_contracts.messages.plan import Plan
from sluice_runtime.artifact_files import FileArtifactStore

TASK = {"id": "t", "objective": "work", "role": "researcher"}
INCIDENT = Path(__file__).resolve().parents[3] / "examples" / "incident"


def written(directory: Path, text: str, name: str = "plan.yaml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "logs" / "deep").mkdir(parents=True)
    for name in ("logs/b.log", "logs/a.log", "logs/deep/c.log", "logs/.hidden", "note.md"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.covers("U2")
def test_paths_become_references_and_keep_their_place(folder: Path) -> None:
    own = {**TASK, "inputs": ["note.md"]}
    path = written(
        folder, json.dumps({"objective": "o", "tasks": [TASK, {**own, "id": "u"}], "inputs": ["logs", "./note.md"]})
    )
    file = read_plan(path)
    store = FileArtifactStore(folder / "store")
    plan = Plan.model_validate(asyncio.run(completed(file, files_at(folder / "logs" / "deep"), store)))
    assert [ref.name for ref in plan.inputs] == ["logs/a.log", "logs/b.log", "logs/deep/c.log", "note.md", "deep/c.log"]
    assert [ref.name for ref in plan.tasks[1].inputs] == ["note.md"]
    assert plan.tasks[0].inputs == ()
    assert asyncio.run(store.get(plan.inputs[0].sha256)) == b"logs/a.log"
    assert plan.inputs[3].media_type.startswith("text/markdown")


def test_the_condition_of_an_edge_is_no_boolean(tmp_path: Path) -> None:
    """YAML 1.1 reads the key `on` as true."""
    edge = "[{id: t, objective: no, role: r}, {id: u, objective: yes, role: r, dependencies: [{task: t, on: failed}]}]"
    plan = Plan.model_validate(read_plan(written(tmp_path, f"objective: o\nunattended: true\ntasks: {edge}")).plan)
    assert plan.tasks[1].dependencies[0].on == "failed"
    assert (plan.tasks[0].objective, plan.tasks[1].objective, plan.unattended) == ("no", "yes", True)


def test_a_file_outside_the_plans_folder_has_its_own_name(folder: Path) -> None:
    (folder / "plans").mkdir()
    path = written(folder / "plans", "{objective: o, tasks: [], inputs: [../note.md]}")
    with pytest.raises(InputInvalid, match="tasks"):
        read_plan(path)
    path.write_text(json.dumps({"objective": "o", "tasks": [TASK], "inputs": ["../note.md"]}))
    assert [one.name for one in read_plan(path).inputs] == ["note.md"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2]", "a plan is an object"),
        (
            "objective: o\ntasks: [{id: t, objective: o, role: r, dependecies: [x]}]",
            r"tasks\[0\].dependecies: no plan has",
        ),
        (
            "objective: o\ntasks: [{id: t, objective: o, role: r, budget: {token: 5}}]",
            r"tasks\[0\].budget.token: no plan has",
        ),
        ("objective: o", "tasks: Field required"),
        ("objective: o\ntasks: [{id: 'a b', objective: o, role: r}]", r"tasks\[0\].id.*'a b'"),
        ("objective: o\ntasks: [{id: t, objective: o, role: r}]\ninputs: [nowhere]", "no such file or folder"),
        ("objective: o\ntasks: [{id: t, objective: o, role: r}]\nscenario: [x]", "scenario: it is the path"),
        ("objective: [", r"plan.yaml:\d+:\d+"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InputInvalid, match=told):
        read_plan(written(tmp_path, text))


def test_json_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="no JSON"):
        read_plan(written(tmp_path, "{", "plan.json"))
    with pytest.raises(InputInvalid, match="No such file"):
        read_plan(tmp_path / "absent.yaml")


def test_names_of_dependencies_are_edges() -> None:
    check_plan(
        {"objective": "o", "tasks": [TASK, {**TASK, "id": "u", "dependencies": ["t", {"task": "t", "on": "failed"}]}]},
        "p",
    )
    with pytest.raises(InputInvalid, match="dependencies"):
        check_plan({"objective": "o", "tasks": [{**TASK, "dependencies": [{"task": "t", "when": "failed"}]}]}, "p")


def test_folders_leave_out_what_begins_with_a_dot(folder: Path) -> None:
    assert [one.name for one in files_at(folder / "logs")] == ["logs/a.log", "logs/b.log", "logs/deep/c.log"]
    assert [one.name for one in files_at(folder / "logs" / ".hidden")] == [".hidden"]
    (folder / "empty").mkdir()
    with pytest.raises(InputInvalid, match="no files"):
        files_at(folder / "empty")


def test_two_files_of_one_name_must_be_alike(folder: Path) -> None:
    store = FileArtifactStore(folder / "store")
    one, two = files_at(folder / "logs" / "a.log", "x"), files_at(folder / "logs" / "b.log", "x")
    assert len(asyncio.run(stored([*one, *one], store))) == 1
    with pytest.raises(InputInvalid, match="another input is named x too"):
        asyncio.run(stored([*one, *two], store))


def test_without_a_store_there_are_no_inputs(folder: Path) -> None:
    with pytest.raises(InputInvalid, match="SLUICE_ARTIFACTS_URL"):
        asyncio.run(completed(PlanFile({}), files_at(folder / "note.md"), None))


def test_a_scenario_is_named_by_its_content(tmp_path: Path) -> None:
    scenario = written(tmp_path, "agents: []", "my scenario.yaml")
    first = install_scenario(scenario, tmp_path / "scenarios")
    assert install_scenario(scenario, tmp_path / "scenarios") == first
    scenario.write_text("agents: [1]")
    second = install_scenario(scenario, tmp_path / "scenarios")
    names = {model.removeprefix("scripted:") for model in (first, second)}
    assert len(names) == 2
    assert {path.stem for path in (tmp_path / "scenarios").glob("*.yaml")} == names


def test_the_shipped_plan_is_one() -> None:
    file = read_plan(INCIDENT / "plan.yaml")
    assert file.scenario == INCIDENT / "scenario.yaml"
    assert {one.name for one in file.inputs} >= {
        "logs/payments.log",
        "config/payments.yaml",
        "deploy/changes.log",
        "runbook.md",
    }
