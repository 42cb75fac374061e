"""The engine's disk runs full again and again, at any moment of inserts and merges: what was inserted can be read."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.adapters.migrations import migrate, shipped
from sluice_observability.ports import StoreUnavailable
from tests.installation import fill

DISK_MIB = 96
BATCHES = 150
UNTIL_S = 120


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", disk], capture_output=True)
    if done.returncode:
        pytest.skip("a disk is filled only if it is its own: mounting a tmpfs was not allowed; run it as root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def keep_filling(disk: Path, random_: random.Random, stop: threading.Event) -> None:
    """Takes all space, gives some crumbs back and takes them again for a while, frees it, and so on."""
    while not stop.wait(random_.uniform(0.05, 0.3)):
        ballast = fill(disk)
        until = time.monotonic() + random_.uniform(0.05, 0.4)
        while time.monotonic() < until:
            os.truncate(ballast, ballast.stat().st_size - random_.randrange(200_000))
            time.sleep(random_.uniform(0, 0.02))  # the fault itself
            with ballast.open("ab", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(1 << 10))
        ballast.unlink()


def batch(number: int, first_offset: int, random_: random.Random) -> pa.Table:
    count = random_.randrange(1, 400)
    moment = pa.array([number] * count, pa.timestamp("ms", "UTC"))
    return pa.table(
        {
            "pipeline_id": [f"p{random_.randrange(9)}" for _ in range(count)],
            "topic": [random_.choice("abc") for _ in range(count)],
            "payload": [random_.randbytes(100).hex() for _ in range(count)],
            "offset": pa.array(range(first_offset, first_offset + count), pa.uint64()),
            "append_time": moment,
            "ingest_time": moment,
        }
    )


@pytest.mark.needs("mount")
@pytest.mark.covers("O1")
def test_what_was_inserted_can_be_read_whenever_the_disk_was_full(small_disk: Path) -> None:
    random_ = random.Random(4)
    engine = ClickHouse.embedded(small_disk / "clickhouse")
    migrate(engine, shipped())
    stop = threading.Event()
    filling = threading.Thread(target=keep_filling, args=(small_disk, random.Random(5), stop))
    filling.start()
    written = refused = 0
    until = time.monotonic() + UNTIL_S
    try:
        for number in range(1, BATCHES + 1):
            rows = batch(number, written, random_)
            tried = False
            while True:
                assert time.monotonic() < until, f"batch {number} was refused {refused} times"
                try:
                    there = "SELECT 1 FROM log WHERE ingest_time = fromUnixTimestamp64Milli({at:Int64}, 'UTC') LIMIT 1"
                    if not (tried and engine.rows(there, {"at": number})):
                        tried = True
                        engine.insert("log", rows, token=f"batch {number}")
                    break
                except StoreUnavailable:
                    refused += 1
                    time.sleep(0.01)
            written += rows.num_rows
    finally:
        stop.set()
        filling.join()
    assert refused, "the disk was full in between"
    read = "SELECT count(), uniqExact(offset), sum(length(toString(tuple(*)))) > 0 FROM log WHERE topic != ''"
    assert engine.rows(read) == [(written, written, True)]
    engine.close()
    reopened = ClickHouse.embedded(small_disk / "clickhouse")
    assert reopened.rows(read) == [(written, written, True)]
    reopened.close()
