"""Keeps the embedded engine's parts whole on a disk that runs full.

ClickHouse (26.9, tried) takes a part for written although the disk was full at one of its files: an insert or a merge
succeeds, and the part cannot be read. What it finds broken when a table is opened it sets aside, and takes the merged
parts' sources instead, which it keeps for eight minutes. So:

1. nothing is written while less than a reserve is free;
2. when the disk was low, or an insert failed, merges stand still, and parts that are younger than the last moment at
   which all was well are checked before anything else happens. A table with a broken part is opened anew, and the
   insert is done again.

A disk that was full for less than `LOOK_INTERVAL_S` between two uses may go unseen.

A server's disk is the server's: set `keep_free_space_bytes` there.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from sluice_observability.ports import StoreUnavailable

logger = logging.getLogger(__name__)

RESERVE_MAX_BYTES = 64 << 20
"""More than what a batch, its merges and what else lives on the disk write within a flush interval."""

RESERVE_PARTS = 10
"""Of a small disk a tenth is enough."""

LOOK_INTERVAL_S = 0.05
"""The engine merges when nobody uses it too, so the disk is looked at all the time; a look takes microseconds."""

CLOCKS_DIFFER_S = 2
"""Parts have whole seconds, and the file system's clock is not quite ours."""


class DiskGuard:
    """Stands before every use of one engine. Its uses come one after another: `ClickHouse` sees to that.

    Attributes:
        reopened: How often tables were opened anew, without parts that they had.
    """

    def __init__(self, directory: Path) -> None:
        self.reopened = 0
        self._directory = directory
        self._sound_s = time.time()  # what is older the engine looks at itself, when it opens its tables
        self._suspect = False
        self._broken: set[str] = set()
        self._was_low = threading.Event()
        self._closed = threading.Event()
        self._looking: threading.Thread | None = None

    def close(self) -> None:
        """Ends the looking; the next use begins it again."""
        self._closed.set()
        if self._looking is not None:
            self._looking.join()
            self._looking = None

    @contextmanager
    def around(self, client: Client) -> Iterator[None]:
        """Refuses work while the disk is low, and has parts checked that may be broken.

        Raises:
            StoreUnavailable: The disk is low, or was low while the work was done: do it again, if it was not done.
        """
        if self._looking is None:
            self._closed.clear()
            self._looking = threading.Thread(target=self._look, name="disk", daemon=True)
            self._looking.start()
        begun_s = time.time()
        try:
            self._require_space()
            if self._suspect or self._was_low.is_set():
                self._was_low.clear()
                self._check(client)
            yield
            self._require_space()
        except Exception:
            self._suspect = True
            client.command("SYSTEM STOP MERGES")
            raise
        self._sound_s = begun_s

    def _look(self) -> None:
        while not self._closed.wait(LOOK_INTERVAL_S):
            with suppress(OSError):  # whoever uses the engine is told
                free, reserve = self._space()
                if free < reserve:
                    self._was_low.set()

    def _space(self) -> tuple[int, int]:
        usage = shutil.disk_usage(self._directory)
        return usage.free, min(RESERVE_MAX_BYTES, usage.total // RESERVE_PARTS)

    def _require_space(self) -> None:
        free, reserve = self._space()
        if free < reserve:
            raise StoreUnavailable(
                f"not enough space: {free >> 20} MiB are free on the disk of {self._directory}, and {reserve >> 20} MiB"
                " must stay free; make room, and it goes on by itself"
            )

    def _check(self, client: Client) -> None:
        self._broken |= {table for table, part in self._young(client) if not _is_whole(client, table, part)}
        for table in sorted(self._broken):
            logger.error("the disk was full while parts of %s were written; opening it without the broken ones", table)
            client.command(f"DETACH TABLE IF EXISTS `{table}` SYNC")
            client.command(f"ATTACH TABLE IF NOT EXISTS `{table}`")
            self._broken.discard(table)
            self.reopened += 1
        client.command("SYSTEM START MERGES")
        self._suspect = False

    def _young(self, client: Client) -> list[tuple[str, str]]:
        since = int(self._sound_s) - CLOCKS_DIFFER_S
        query = (
            "SELECT table, name FROM system.parts WHERE active AND database = currentDatabase()"
            " AND toUnixTimestamp(modification_time) >= {since:Int64}"
        )
        return [(str(table), str(part)) for table, part in client.query(query, parameters={"since": since}).result_rows]


def _is_whole(client: Client, table: str, part: str) -> bool:
    try:
        answer = client.query(f"CHECK TABLE `{table}` PART '{part}' SETTINGS check_query_single_value_result = 1")
    except ClickHouseError as error:
        logger.warning("part %s of %s: %s", part, table, str(error)[:300])
        return False
    return bool(int(answer.result_rows[0][0]))
