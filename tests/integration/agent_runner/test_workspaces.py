"""Workspaces and their tools on a real file system: what they do, and what nobody gets them to do."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sluice_agent_runner.adapters.file_tools import FILE_MAX_BYTES, OUTPUT_MAX_BYTES
from sluice_agent_runner.adapters.workspaces import DiskWorkspaces
from sluice_agent_runner.domain.conversation import ToolCall, ToolResult, WrittenArtifact
from sluice_agent_runner.domain.tools import CATALOGUE
from sluice_agent_runner.ports import UnusableInput, Workspace
from sluice_contracts.messages.agent import AgentRun
from sluice_contracts.messages.base import ArtifactRef
from tests.unit.agent_runner.builders import Store, TestTime, agent_run, task

pytestmark = pytest.mark.covers("W6", "W4")

OUTSIDE = "the file outside: root:x:0:0"
LOG = "10:00 INFO start\n10:01 ERROR refused by db-1\n10:02 WARN slow\n10:03 ERROR refused by db-2\n"


class Place:
    """Workspaces on disk, with a store, and a directory outside them that must never be reached."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "workspaces"
        self.outside = directory / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text(OUTSIDE)
        self.store = Store()
        self.workspaces = DiskWorkspaces(self.directory, self.store, TestTime())

    def input(self, name: str | None, body: str | bytes) -> ArtifactRef:
        return self.store.put_now(body.encode() if isinstance(body, str) else body, name=name)

    async def open(self, *inputs: ArtifactRef, run: AgentRun | None = None, **changes: Any) -> Workspace:
        changes.setdefault("inputs", inputs)
        return await self.workspaces.open("pipeline-1", run or agent_run(**changes), ())

    @property
    def home(self) -> Path:
        """The runner's own folder."""
        (home,) = self.directory.iterdir()
        return home

    @property
    def root(self) -> Path:
        return self.home / "pipeline-1" / "agent-1-1"


def on(tmp_path: Path, scenario: Callable[[Place], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        place = Place(tmp_path)
        try:
            return await scenario(place)
        finally:
            place.workspaces.close()

    return asyncio.run(run())


async def use(workspace: Workspace, tool: str, /, **arguments: Any) -> ToolResult:
    parsed = CATALOGUE[tool].parse(msgspec.json.encode(arguments).decode())
    return await workspace.tools.run(ToolCall("c", tool, parsed))


async def said(workspace: Workspace, tool: str, /, **arguments: Any) -> str:
    result = await use(workspace, tool, **arguments)
    assert not result.is_error, result.content
    return result.content


async def refused(workspace: Workspace, tool: str, /, **arguments: Any) -> str:
    result = await use(workspace, tool, **arguments)
    assert result.is_error, result.content
    assert OUTSIDE not in result.content
    return result.content


def everything(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# What they do


def test_a_workspace_is_private_holds_its_inputs_read_only_and_goes_away(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        notes = place.input("notes.md", "found")
        outcome = {"task_id": "t0", "status": "succeeded", "artifacts": [notes]}
        run = agent_run(
            task(inputs=[place.input("config.yaml", "a: 1")]),
            inputs=[place.input("logs/pay/app.log", LOG), place.input(None, "nameless")],
            dependency_outcomes=[outcome],
        )
        workspace = await place.open(run=run)
        for path in (place.directory, place.home, place.home / "pipeline-1", place.root, place.root / "logs"):
            assert mode(path) == 0o700
        for name in ("logs/pay/app.log", "config.yaml", "dependencies/t0/notes.md"):
            assert mode(place.root / name) == 0o400
        nameless = place.store.put_now(b"nameless").sha256[:16]
        assert await said(workspace, "list_files") == "\n".join(
            sorted(
                [
                    f"{nameless} (8 bytes)", "config.yaml (4 bytes)", "dependencies/t0/notes.md (5 bytes)",
                    f"logs/pay/app.log ({len(LOG)} bytes)",
                ]
            )
        )  # fmt: skip
        assert await said(workspace, "list_files", path="logs/") == f"logs/pay/app.log ({len(LOG)} bytes)"
        await workspace.close()
        assert list(place.home.iterdir()) == []

    on(tmp_path, scenario)
    assert list((tmp_path / "workspaces").iterdir()) == []


def test_reading_shows_lines_with_their_numbers(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        long = "x" * 3_000
        many = "\n".join(f"line {n}" for n in range(1, 5_001))
        workspace = await place.open(
            place.input("app.log", LOG), place.input("long", long), place.input("many", many), place.input("empty", "")
        )
        assert await said(workspace, "read_file", path="app.log", offset=2, limit=1) == (
            "     2\t10:01 ERROR refused by db-1\n(lines 2 to 2 of 4; go on with offset 3)"
        )
        assert (await said(workspace, "read_file", path="app.log")).count("\n") == 3
        assert (await said(workspace, "read_file", path="long")).endswith("… (2000 more characters)")
        shown = await said(workspace, "read_file", path="many", limit=2_000)
        assert len(shown.encode()) < OUTPUT_MAX_BYTES + 200
        assert "go on with offset" in shown
        assert await said(workspace, "read_file", path="empty") == "empty is empty"
        assert "beyond the end: app.log has 4 lines" in await refused(workspace, "read_file", path="app.log", offset=9)

    on(tmp_path, scenario)


def test_searching_names_file_and_line(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        big = b"quiet\n" * 400_000 + b"here it is\n" + b"quiet\n" * 10
        workspace = await place.open(
            place.input("a/app.log", LOG), place.input("b.log", "error refused\r\nüber"),
            place.input("c.bin", b"\0refused"),
            place.input("d.big", big), place.input("e.latin1", b"caf\xe9 refused"),
        )  # fmt: skip
        found = await said(workspace, "search_files", pattern="ERROR .* by (db-\\d)$")
        assert found == "a/app.log:2: 10:01 ERROR refused by db-1\na/app.log:4: 10:03 ERROR refused by db-2"
        everywhere = await said(workspace, "search_files", pattern="^.*REFUSED", ignore_case=True)
        assert [line.rpartition(": ")[0] for line in everywhere.split("\n")] == [
            "a/app.log:2", "a/app.log:4", "b.log:1", "e.latin1:1",
        ]  # fmt: skip
        assert await said(workspace, "search_files", pattern="here it is") == "d.big:400001: here it is"
        assert (await said(workspace, "search_files", pattern="über", path="b.log")) == "b.log:2: über"
        few = await said(workspace, "search_files", pattern="quiet", max_matches=3)
        assert few.split("\n")[:3] == [f"d.big:{n}: quiet" for n in (1, 2, 3)]
        assert "there are more than 3 matches" in few
        assert "no line of 5 files matches" in await said(workspace, "search_files", pattern="nowhere")
        assert "no line" in await said(workspace, "search_files", pattern="start\\n10:01")
        for pattern in ("(", "(?=x)", "a{1001}"):
            assert "is no regular expression of RE2" in await refused(workspace, "search_files", pattern=pattern)

    on(tmp_path, scenario)


def test_a_pattern_that_would_explode_elsewhere_ends(tmp_path: Path) -> None:
    async def scenario(place: Place) -> str:
        workspace = await place.open(place.input("a", "a" * 200_000 + "!"))
        return await said(workspace, "search_files", pattern="^(a+)+$")

    assert "no line of 1 files matches" in on(tmp_path, scenario)


@pytest.mark.covers("W7")
def test_artifacts_are_stored_and_shown_in_the_workspace(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        workspace = await place.open()
        first = await use(workspace, "write_artifact", name="out/report.md", kind="report", content="one ü")
        assert first.artifact is not None
        assert (first.artifact.name, first.artifact.kind, first.artifact.size_bytes) == ("out/report.md", "report", 6)
        assert first.artifact.media_type == "text/markdown; charset=utf-8"
        again = await use(workspace, "write_artifact", name="out/report.md", kind="report", content="two")
        assert "its next version" in again.content
        assert again.artifact is not None
        hashes = [first.artifact.sha256, again.artifact.sha256]
        assert [place.store.bodies[sha256] for sha256 in hashes] == ["one ü".encode(), b"two"]
        assert await said(workspace, "read_file", path="artifacts/out/report.md") == "     1\ttwo"
        assert mode(place.root / "artifacts/out/report.md") == 0o600
        for n in range(99):
            await said(workspace, "write_artifact", name=f"{n}", kind="k", content="")
        assert "100 artifacts are written" in await refused(workspace, "write_artifact", name="x", kind="k", content="")

    on(tmp_path, scenario)


@pytest.mark.covers("P12")
def test_a_later_attempt_finds_its_artifacts_again(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        body = place.store.put_now(b"kept")
        kept = WrittenArtifact("out/report.md", body.sha256, 4, "text/plain", "report")
        workspace = await place.workspaces.open("pipeline-1", agent_run(attempt=12), [kept])
        assert [path.name for path in (place.home / "pipeline-1").iterdir()] == ["agent-1-12"]
        assert await said(workspace, "read_file", path="artifacts/out/report.md") == "     1\tkept"
        assert "its next version" in await said(
            workspace, "write_artifact", name="out/report.md", kind="r", content="x"
        )
        other = await place.workspaces.open("pipeline-1", agent_run(agent_id="agent-1-1"), [])
        await workspace.close()
        assert [path.name for path in (place.home / "pipeline-1").iterdir()] == ["agent-1-1-1"]
        await other.close()

    on(tmp_path, scenario)


# What nobody gets them to do

HOSTILE = [
    "../outside/secret", "..", "a/../../x", "/etc/passwd", "//etc/passwd", "a//b", "a/./b", "a\\..\\b", "a\x00b",
    "a\nb",
    "a\u202eb", "x" * 256, "/".join("abcdefghijklmnopq"), " lead", "trail ", "ü" * 130, "a/", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_by_every_tool(tmp_path: Path, name: str) -> None:
    async def scenario(place: Place) -> None:
        workspace = await place.open(place.input("a.log", LOG))
        before = everything(tmp_path)
        for tool, arguments in (
            ("read_file", {"path": name}),
            ("search_files", {"path": name, "pattern": "."}),
            ("list_files", {"path": name}),
            ("write_artifact", {"name": name, "kind": "k", "content": "x"}),
        ):
            arguments_class = CATALOGUE[tool].arguments
            if name == "a/" and tool in ("search_files", "list_files"):
                continue  # a folder may be named with its slash; there is none here
            result = await workspace.tools.run(ToolCall("c", tool, arguments_class(**arguments)))
            assert result.is_error
            assert OUTSIDE not in result.content
            assert str(tmp_path) not in result.content
        assert everything(tmp_path) == before

    on(tmp_path, scenario)


@pytest.mark.parametrize("name", [name for name in HOSTILE if "\ud800" not in name and len(name) <= 255])
def test_hostile_artifact_names_fail_the_task(tmp_path: Path, name: str) -> None:
    async def scenario(place: Place) -> None:
        with pytest.raises(UnusableInput) as caught:
            await place.open(place.input(name, "x"))
        assert caught.value.code == "hostile_artifact_name"
        assert not (place.home / "pipeline-1").exists()

    on(tmp_path, scenario)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["a", "a"], "conflicting_inputs"),
        (["a", "a/b"], "conflicting_inputs"),
        (["a/b", "a"], "conflicting_inputs"),
        (["artifacts/x"], "conflicting_inputs"),
        (["dependencies"], "conflicting_inputs"),
        ([f"f{n}" for n in range(1_001)], "inputs_too_many"),
    ],
)
def test_inputs_that_can_not_stand_beside_each_other_fail_the_task(tmp_path: Path, names: list[str], code: str) -> None:
    async def scenario(place: Place) -> None:
        with pytest.raises(UnusableInput) as caught:
            await place.open(*[place.input(name, f"{n}") for n, name in enumerate(names)])
        assert caught.value.code == code
        assert list(place.home.iterdir()) == []

    on(tmp_path, scenario)


def test_a_missing_input_fails_the_task(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        with pytest.raises(UnusableInput, match=r"input a\.log") as caught:
            await place.open(ArtifactRef(sha256="0" * 64, size_bytes=1, name="a.log"))
        assert caught.value.code == "input_missing"
        assert list(place.home.iterdir()) == []

    on(tmp_path, scenario)


@pytest.mark.covers("V5")
@pytest.mark.parametrize(
    ("tool", "arguments", "breaks"),
    [
        ("read_file", {"path": "file"}, "symlink_escape"),
        ("read_file", {"path": "folder/secret"}, "symlink_escape"),
        ("list_files", {"path": "folder"}, "symlink_escape"),
        ("search_files", {"path": "file", "pattern": "x"}, "symlink_escape"),
        ("write_artifact", {"name": "../../x", "kind": "k", "content": "x"}, "path_traversal"),
        ("read_file", {"path": "/etc/passwd"}, "absolute_path"),
        ("read_file", {"path": "a.log/x"}, None),
        ("read_file", {"path": "fifo"}, None),
        ("read_file", {"path": "nothing"}, None),
    ],
)
def test_a_refusal_names_the_policy_that_was_broken(
    tmp_path: Path, tool: str, arguments: dict[str, Any], breaks: str | None
) -> None:
    async def scenario(place: Place) -> None:
        workspace = await place.open(place.input("a.log", LOG))
        (place.root / "file").symlink_to(place.outside / "secret")
        (place.root / "folder").symlink_to(place.outside)
        os.mkfifo(place.root / "fifo")
        definition = CATALOGUE[tool]
        arguments_read = definition.parse(json.dumps(arguments))
        result = await workspace.tools.run(ToolCall("c", tool, arguments_read))
        assert (result.is_error, result.breaks) == (True, breaks)
        await workspace.close()

    on(tmp_path, scenario)


def test_links_and_special_files_are_never_followed(tmp_path: Path) -> None:
    """However they came in: nothing below the workspace leads out of it, and nothing blocks."""

    async def scenario(place: Place) -> None:
        workspace = await place.open(place.input("a.log", LOG))
        (place.root / "file").symlink_to(place.outside / "secret")
        (place.root / "folder").symlink_to(place.outside)
        (place.root / "relative").symlink_to("../../../../outside/secret")
        (place.root / "loop").symlink_to("loop")
        os.mkfifo(place.root / "fifo")
        (place.root / "artifacts").symlink_to(place.outside)
        for name in ("file", "relative", "loop"):
            assert "symbolic link" in await refused(workspace, "read_file", path=name)
        for path in ("folder/secret", "artifacts/secret"):
            assert "symbolic link" in await refused(workspace, "read_file", path=path)
        assert "no plain file" in await refused(workspace, "read_file", path="fifo")
        assert await said(workspace, "list_files") == f"a.log ({len(LOG)} bytes)"
        assert "no line of 1 files" in await said(workspace, "search_files", pattern="root:x")
        for path in ("folder", "file", "loop"):
            assert "symbolic link" in await refused(workspace, "search_files", pattern=".", path=path)
        assert "symbolic link" in await refused(workspace, "write_artifact", name="x", kind="k", content="x")
        assert [path.name for path in place.outside.iterdir()] == ["secret"]
        (place.root / "artifacts").unlink()
        (place.root / "artifacts").mkdir()
        (place.root / "artifacts/report.md").symlink_to(place.outside / "secret")
        await said(workspace, "write_artifact", name="report.md", kind="k", content="mine")  # replaces the link itself
        assert (place.outside / "secret").read_text() == OUTSIDE
        await workspace.close()
        assert (place.outside / "secret").read_text() == OUTSIDE
        assert list(place.home.iterdir()) == []

    on(tmp_path, scenario)


def test_a_workspaces_directory_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="link"):
        DiskWorkspaces(tmp_path / "link", Store(), TestTime())


def test_what_is_too_large_or_no_text_is_refused_with_its_size(tmp_path: Path) -> None:
    async def scenario(place: Place) -> None:
        workspace = await place.open(
            place.input("huge", b"x" * (FILE_MAX_BYTES + 1)),
            place.input("binary", b"ab\0cd"),
            place.input("a.log", LOG),
        )
        assert f"has {FILE_MAX_BYTES + 1} bytes; at most {FILE_MAX_BYTES}" in await refused(
            workspace, "read_file", path="huge"
        )
        assert "holds NUL bytes" in await refused(workspace, "read_file", path="binary")
        found = await said(workspace, "search_files", pattern="refused by db-1")
        assert "huge was not searched" in found
        assert "a.log:2:" in found
        for path, says in (("nowhere", "does not exist"), ("a.log/x", "is no folder")):
            assert says in await refused(workspace, "read_file", path=path)
        (place.root / "folder").mkdir()
        assert "is a folder" in await refused(workspace, "read_file", path="folder")
        await said(workspace, "write_artifact", name="d/x", kind="k", content="x")
        assert "folder" in await refused(workspace, "write_artifact", name="d", kind="k", content="x")
        assert "folder" in await refused(workspace, "write_artifact", name="d/x/y", kind="k", content="x")

    on(tmp_path, scenario)
