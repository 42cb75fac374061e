"""The law of the follower: whatever is done to the files, and wherever it is killed, each line is taken once, in order.

Real files in a folder; what is durable is a list and a position, which change together or not at all.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sluice_vault_broker.audit.adapters.files import AuditFiles
from sluice_vault_broker.audit.domain.lines import Line, Position
from sluice_vault_broker.audit.domain.rotation import CHUNK_BYTES, LOST_AFTER_S, Found, Lost, Reading
from tests.unit.vault_broker.audit_entries import line

LINE_MAX = 2 * CHUNK_BYTES
FILES_MAX = 20


class Interrupted(AuditFiles):
    """Something happens between a look and the reading that follows."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.meanwhile: Callable[[], None] | None = None

    def look(self) -> Sequence[Found]:
        found = super().look()
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return found


class World:
    """A folder, what Vault and rotation do in it, and who reads it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "audit.log"
        self.written: list[bytes] = []
        self.durable: list[Line] = []
        self.lost: list[Lost] = []
        self.position: Position | None = None
        self.now_s = 0.0
        self._number = 0
        self._pending = b""
        self._vault = self._opened()
        self._start()

    # Vault

    def _opened(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, count: int, cut: int = 0) -> None:
        """So many lines; of the last one `cut` bytes come later."""
        self.finish()
        content = b""
        for _ in range(count):
            self._number += 1
            self.written.append(line(self._number))
            content += self.written[-1] + b"\n"
        os.write(self._vault, content[: len(content) - cut])
        self._pending = content[len(content) - cut :]

    def finish(self) -> None:
        os.write(self._vault, self._pending)
        self._pending = b""

    def reopen(self) -> None:
        """What SIGHUP makes Vault do."""
        os.close(self._vault)
        self._vault = self._opened()

    # Rotation

    def during_a_step(self, rotation: Callable[[], None]) -> None:
        self.finish()
        self.files.meanwhile = lambda: (rotation(), self.write(5))[0]
        self.step()
        self.files.meanwhile = None

    def rename(self, *, create: bool, between: int) -> None:
        self._shift()
        self.path.rename(self.path.with_name("audit.log.1"))
        if create:
            self.path.touch()
        self.steps(between)
        self.write(1)  # into the old file, whose name has changed
        self.steps(between)
        self.reopen()

    def copy_and_truncate(self, between: int) -> None:
        self.finish()
        self._shift()
        content = self.path.read_bytes()
        copy = self.path.with_name("audit.log.1")
        copy.write_bytes(content[: len(content) // 2])
        self.steps(between)
        copy.write_bytes(content)
        self.steps(between)
        os.truncate(self.path, 0)

    def _shift(self) -> None:
        for number in range(FILES_MAX, 0, -1):
            older = self.path.with_name(f"audit.log.{number}")
            if older.exists():
                older.rename(older.with_name(f"audit.log.{number + 1}"))

    # The reader

    def _start(self) -> None:
        self.files = Interrupted(self.path)
        self.reading = Reading(self.position, line_max_bytes=LINE_MAX)

    def kill(self) -> None:
        self.files.close()
        self._start()

    def step(self, *, killed: bool = False) -> bool:
        """One step; killed after it has read, and before it became durable."""
        self.now_s += 1.0
        try:
            taken = self.reading.next(self.files, self.now_s)
        except FileNotFoundError:
            taken = None
        if killed:
            self.kill()
            return True
        if taken is None:
            return False
        self.durable += taken.lines
        self.lost += [] if taken.lost is None else [taken.lost]
        self.position = self.reading.position = taken.position
        return True

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def rest(self) -> None:
        """Reads until nothing comes."""
        idle = 0
        for _ in range(1_000):
            idle = 0 if self.step() else idle + 1
            if idle > LOST_AFTER_S + 3:
                return
        raise AssertionError("it does not come to rest")

    def close(self) -> None:
        self.files.close()
        os.close(self._vault)


@contextmanager
def a_world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        try:
            yield world
        finally:
            world.close()


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as made:
        yield made


OPERATIONS = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 4), st.sampled_from([0, 0, 1, 7, 300])),
    st.tuples(st.just("rename"), st.booleans(), st.integers(0, 2)),
    st.tuples(st.just("copy"), st.integers(0, 2)),
    st.tuples(st.just("during"), st.sampled_from(["rename", "copy"])),
    st.tuples(st.just("step"), st.integers(1, 4)),
    st.tuples(st.just("kill"), st.booleans()),
)


@pytest.mark.covers("V7")
@settings(max_examples=300)
@given(st.lists(OPERATIONS, max_size=25))
def test_each_line_is_taken_once_and_in_order(operations: list[tuple[object, ...]]) -> None:
    with a_world() as world:
        for operation in operations:
            match operation:
                case ("write", int(count), int(cut)):
                    world.write(count, cut)
                case ("rename", bool(create), int(between)):
                    world.rename(create=create, between=between)
                case ("copy", int(between)):
                    world.copy_and_truncate(between)
                case ("during", "rename"):
                    world.during_a_step(lambda: world.rename(create=False, between=0))
                case ("during", "copy"):
                    world.during_a_step(lambda: world.copy_and_truncate(0))
                case ("step", int(count)):
                    world.steps(count)
                case ("kill", bool(before)):
                    world.step(killed=True) if before else world.kill()
        world.finish()
        world.rest()
        assert [one.body for one in world.durable] == world.written
        assert {one.fault for one in world.durable} <= {None}
        assert world.lost == []
        assert len({(one.file, one.offset) for one in world.durable}) == len(world.written), "and by its place once"


@pytest.mark.covers("V7")
@pytest.mark.parametrize("killed", [False, True])
def test_a_file_that_is_deleted_is_read_to_its_end_by_who_has_it_open(world: World, killed: bool) -> None:
    world.write(2)
    world.steps(2)
    world.write(3)
    world.rename(create=False, between=0)  # and one more, into the old file
    world.path.with_name("audit.log.1").unlink()
    world.write(1)
    if killed:
        world.kill()
    world.rest()
    if not killed:
        assert [one.body for one in world.durable] == world.written
        assert world.lost == []
    else:
        assert [one.body for one in world.durable] == world.written[:2] + world.written[-1:]
        [lost] = world.lost
        assert lost.offset == sum(len(one) + 1 for one in world.written[:2])


@pytest.mark.covers("V7")
def test_what_vault_writes_between_a_copy_and_its_truncation_is_nowhere_twice(world: World) -> None:
    """The one way to lose lines that we can't help: they are in no file any more. What was read by then is kept."""
    world.write(3)
    shutil.copy(world.path, world.path.with_name("audit.log.1"))
    world.write(2)
    world.steps(3)
    world.write(1)  # not read
    os.truncate(world.path, 0)
    world.write(4)
    world.rest()
    assert [one.body for one in world.durable] == world.written[:5] + world.written[6:]


@pytest.mark.covers("V7")
def test_what_was_not_read_before_the_truncation_is_read_from_the_copy(world: World) -> None:
    world.write(3)
    world.steps(2)
    world.write(3)
    world.copy_and_truncate(0)
    world.write(20)
    world.rest()
    assert [one.body for one in world.durable] == world.written


@pytest.mark.covers("V7")
def test_what_vault_wrote_and_could_not_finish_is_told_as_incomplete(world: World) -> None:
    world.write(2, cut=9)
    world.rest()
    assert len(world.durable) == 1, "half a line is waited for"
    world._pending = b""
    world.path.rename(world.path.with_name("audit.log-20261121"))
    world.reopen()
    world.write(1)
    world.rest()
    assert [one.fault for one in world.durable] == [None, "incomplete", None]
    assert world.durable[1].body == world.written[1][:-8]


def test_long_lines_and_long_files(world: World) -> None:
    bodies = [b"x" * (CHUNK_BYTES + 5), b"y" * LINE_MAX, b"z" * (LINE_MAX + 1), b"w" * 3 * LINE_MAX, *[line(1)] * 3]
    for body in bodies:
        os.write(world._vault, body + b"\n")
    world.rest()
    assert [one.body for one in world.durable] == [body[:LINE_MAX] for body in bodies]
    assert [one.fault for one in world.durable] == [None, None, "too_large", "too_large", None, None, None]


def test_files_that_are_none_of_rotation_s_are_left_alone(world: World) -> None:
    for name in ("audit.log.1.gz", "audit.log~", "audit.logs", "other.log", "audit.log.d"):
        world.path.with_name(name).write_bytes(line(900) + b"\n")
    world.path.with_name("audit.log.7").mkdir()
    os.mkfifo(world.path.with_name("audit.log.8"))
    world.path.with_name("audit.log.old").write_bytes(line(0) + b"\n")
    world.write(1)
    world.rest()
    assert [one.body for one in world.durable] == [line(0), line(1)]


def test_a_clock_that_was_set_back_does_not_stop_it(world: World) -> None:
    world._number = 5_000
    world.write(2)
    world.rest()
    world._number = 0
    world.rename(create=False, between=1)
    world.write(2)
    world.rest()
    assert [one.body for one in world.durable] == world.written


def test_a_file_that_is_not_there_or_can_t_be_read_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        AuditFiles(tmp_path / "audit.log").look()
    assert missing.value.filename == str(tmp_path / "audit.log")
    with pytest.raises(FileNotFoundError):
        AuditFiles(tmp_path / "nowhere" / "audit.log").look()
    (tmp_path / "audit.log").touch()
    assert AuditFiles(tmp_path / "audit.log").look() == []
    (tmp_path / "loop.log").symlink_to("loop.log")
    with pytest.raises(OSError) as unreadable:  # root may read everything, but this
        AuditFiles(tmp_path / "loop.log").look()
    assert unreadable.value.filename == str(tmp_path / "loop.log")


def test_a_follower_that_is_moved_to_another_node_reads_there_from_the_beginning_and_tells_what_it_left(
    tmp_path: Path,
) -> None:
    """As docs/operations.md says of a cluster's failover, and of the way back."""
    paths, position, now_s = [tmp_path / name / "audit.log" for name in "ab"], None, 0.0
    for number, path in enumerate(paths):
        path.parent.mkdir()
        path.write_bytes(line(number) + b"\n")
    taken: list[list[tuple[str, int]]] = []
    lost: list[str] = []
    for path in (*paths, paths[0]):
        reading, files = Reading(position, line_max_bytes=LINE_MAX), AuditFiles(path)
        taken.append([])
        for _ in range(5):
            now_s += LOST_AFTER_S
            if found := reading.next(files, now_s):
                taken[-1] += [(one.file, one.offset) for one in found.lines]
                lost += [found.lost.file] if found.lost else []
                position = reading.position = found.position
        files.close()
    first, second, again = taken
    assert [len(one) for one in taken] == [1, 1, 1]
    assert lost == [first[0][0], second[0][0]]
    assert again == first, "with the same place, and so the same id"
