"""Large inputs: the event loop goes on, for heartbeats keep leases and several attempts start at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from sluice_agent_runner.adapters.directory import to_its_end
from sluice_agent_runner.adapters.workspaces import INPUT_MAX_BYTES, LARGE_AT_ONCE_MAX_COUNT, DiskWorkspaces
from sluice_agent_runner.ports import UnusableInput
from sluice_agent_runner.supervision.transcripts import load_links
from sluice_contracts.messages.base import ArtifactRef
from sluice_runtime.artifact_files import FileArtifactStore
from sluice_runtime.artifacts import ArtifactCorrupt
from tests.unit.agent_runner.builders import Driver, Store, TestTime, agent_run, call, reply, until

pytestmark = pytest.mark.covers("W6", "W7")

LARGE_BYTES = 32 * 1024 * 1024


async def share_of_the_loop(work: Callable[[], Awaitable[object]]) -> float:
    """Which part of the processor time that a work takes is the event loop's thread's: the rest holds nobody up."""
    thread_s, process_s = time.thread_time(), time.process_time()
    await work()
    return (time.thread_time() - thread_s) / (time.process_time() - process_s)


async def turns_of_the_loop(work: Awaitable[object]) -> int:
    """How often others have their turn meanwhile."""
    task = asyncio.ensure_future(work)
    turns = 0
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    await task
    return turns


def test_a_large_body_is_read_and_checked_beside_the_event_loop(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = FileArtifactStore(tmp_path)
        ref = await store.put(b"x" * LARGE_BYTES)
        assert await share_of_the_loop(lambda: store.get(ref.sha256)) < 0.25
        path = tmp_path / ref.sha256[:2] / ref.sha256
        path.chmod(0o600)
        path.write_bytes(b"y" * LARGE_BYTES)
        with pytest.raises(ArtifactCorrupt):
            await store.get(ref.sha256)

    asyncio.run(scenario())


def test_large_inputs_are_laid_beside_the_event_loop(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = Store()
        workspaces = DiskWorkspaces(tmp_path / "w", store, TestTime())
        inputs = [store.put_now(b"%d" % n + b"x" * LARGE_BYTES, name=f"{n}.log") for n in range(3)]
        run = agent_run(inputs=inputs)
        assert await share_of_the_loop(lambda: workspaces.open("p", run, ())) < 0.25
        workspaces.close()

    asyncio.run(scenario())


def test_many_small_inputs_and_long_transcripts_let_others_have_their_turn(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = Store()
        workspaces = DiskWorkspaces(tmp_path / "w", store, TestTime())
        small = store.put_now(b"x" * 100_000)
        inputs = [small.model_copy(update={"name": f"{n}.log"}) for n in range(300)]
        assert await turns_of_the_loop(workspaces.open("p", agent_run(inputs=inputs), ())) > 90
        empty = store.put_now(b"")
        inputs = [empty.model_copy(update={"name": f"{n}.log"}) for n in range(300)]
        assert await turns_of_the_loop(workspaces.open("p", agent_run(agent_id="b", inputs=inputs), ())) > 15
        driver = Driver(agent_run(max_iterations=500))
        for _ in range(320):
            driver.says(reply(call("list_files")))
        store.bodies |= driver.stored
        sha256, body = list(driver.stored.items())[-1]
        loading = load_links(store, ArtifactRef(sha256=sha256, size_bytes=len(body)), 320)
        assert await turns_of_the_loop(loading) > 9
        workspaces.close()

    asyncio.run(scenario())


class Gated(Store):
    """A store whose bodies come when the test lets them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.asked = 0
        self.asked_at_once = 0

    async def get(self, sha256: str) -> bytes:
        self.asked += 1
        self.asked_at_once = max(self.asked_at_once, self.asked)
        await self.gate.wait()
        self.asked -= 1
        return await super().get(sha256)


def test_few_large_inputs_are_held_in_memory_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = Gated()
        workspaces = DiskWorkspaces(tmp_path / "w", store, TestTime())
        large = store.put_now(b"x" * 300_000, name="a.log")
        starts = [
            asyncio.ensure_future(workspaces.open("p", agent_run(agent_id=f"a{n}", inputs=[large]), ()))
            for n in range(12)
        ]  # fmt: skip
        await until(lambda: store.asked == LARGE_AT_ONCE_MAX_COUNT)
        for _ in range(10):
            await asyncio.sleep(0)
        store.gate.set()
        for workspace in await asyncio.gather(*starts):
            await workspace.close()
        assert store.asked_at_once == LARGE_AT_ONCE_MAX_COUNT
        workspaces.close()
        assert list((tmp_path / "w").iterdir()) == []

    asyncio.run(scenario())


def test_inputs_that_are_too_large_together_are_refused_and_cleared_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = Store()
        workspaces = DiskWorkspaces(tmp_path / "w", store, TestTime())
        large = store.put_now(b"x" * (INPUT_MAX_BYTES // 4 + 1))
        inputs = [large.model_copy(update={"name": f"{n}.log"}) for n in range(4)]
        with pytest.raises(UnusableInput) as caught:
            await workspaces.open("p", agent_run(inputs=inputs), ())
        assert caught.value.code == "inputs_too_large"
        workspaces.close()
        assert list((tmp_path / "w").iterdir()) == []

    asyncio.run(scenario())


def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        store = Gated()
        workspaces = DiskWorkspaces(tmp_path / "w", store, TestTime())
        large = store.put_now(b"x" * 300_000, name="a.log")
        for turns in range(6):  # before the body is there, and while it is written
            store.gate.clear()
            opening = asyncio.ensure_future(workspaces.open("p", agent_run(attempt=turns + 1, inputs=[large]), ()))
            await until(lambda: store.asked == 1)
            if turns:
                store.gate.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            store.asked = 0
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            if not opening.cancelled():
                await opening.result().close()
            assert list((tmp_path / "w").glob("*/*")) == []
        workspaces.close()

    asyncio.run(scenario())


def test_whoever_is_cancelled_waits_for_the_thread_that_writes() -> None:
    async def scenario() -> None:
        going, go_on = threading.Event(), threading.Event()

        def work() -> None:
            going.set()
            assert go_on.wait(30)

        writing = asyncio.ensure_future(to_its_end(work))
        await until(going.is_set)
        writing.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not writing.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await writing

    asyncio.run(scenario())
