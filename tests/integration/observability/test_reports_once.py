"""Each revocation has one report, whoever is killed or frozen between storing, publishing and committing it."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sluice_contracts import topics
from sluice_contracts.envelope import CloudEvent, OutgoingRecord
from sluice_contracts.messages import Message
from sluice_observability.adapters.kafka_outbox import SESSION_TIMEOUT_MS
from sluice_runtime.artifact_files import FileArtifactStore
from tests.integration.observability.conftest import StartService, new_prefix, starting
from tests.integration.observability.reading import Reader
from tests.integration.observability.support import WAIT_S, Service, Writer, wait_for
from tests.kafka import TestKafka, write_unreadable
from tests.unit.observability.breaches import breach, reported
from tests.unit.observability.events import Teller

INSTALLATIONS, KILLS_OF_EACH = 4, 6
"""Side by side: a takeover waits for the dead member's session, whatever the machine can do meanwhile."""

AWAY = "the artifact store is away"
"""Said by an api in its log."""

SPREAD_S = 0.15
COMMIT_S = 0.01
"""From the revocation to its report it is some 100 ms, of which the last ten are behind the first stored body: kills
fall before, between and after the steps."""


class EmptyLog(BaseHTTPRequestHandler):
    """An SQL endpoint whose log has nothing: the api then reads the topics from their beginnings."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def empty_log() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), EmptyLog)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def stored_in(directory: Path) -> int:
    return sum(1 for path in (directory / "artifacts").rglob("*") if path.is_file())


def check(events: list[CloudEvent[Message]], pipelines: list[str], directory: Path) -> None:
    """Each pipeline has one report, and both of its bodies exist."""
    assert Counter(one.subject for one in events) == dict.fromkeys(pipelines, 1)

    async def read_all() -> None:
        store = FileArtifactStore(directory / "artifacts")
        for one in events:
            data = reported(one)
            for ref in (data.report, data.markdown):
                assert len(await store.get(ref.sha256)) == ref.size_bytes

    asyncio.run(read_all())


def killed_at_random(kafka: TestKafka, directory: Path, sql_url: str, seed: int) -> Counter[str]:
    """One installation through its kills; says at which step they fell."""
    chance = random.Random(seed)
    directory.mkdir()
    prefix = new_prefix(kafka)
    writer, reader = Writer(kafka.connection, prefix), Reader(kafka, prefix, topics.REPORTS.name)
    fell: Counter[str] = Counter()
    pipelines = []
    with starting(kafka, prefix, directory) as start:
        api = start("api", SLUICE_SQL_URL=sql_url)
        api.ready()
        writer.tell(*breach(Teller("first")))
        pipelines.append("first")
        wait_for("the group to be joined", lambda: reader.of("first"))
        for number in range(KILLS_OF_EACH):
            name = f"p{number}"
            before = stored_in(directory)
            writer.tell(*breach(Teller(name)))
            pipelines.append(name)
            if chance.random() < 0.75:  # between storing and committing
                until = time.monotonic() + WAIT_S
                while stored_in(directory) == before and time.monotonic() < until:
                    time.sleep(0.0005)
                time.sleep(chance.uniform(0, COMMIT_S))
            else:
                time.sleep(chance.uniform(0, SPREAD_S))
            api.kill()
            stored = stored_in(directory) - before
            is_there = reader.of(name) is not None
            fell[
                "committed" if is_there else "stored" if stored >= 2 else "stored in part" if stored else "before"
            ] += 1
            api.start()
            wait_for(f"the report on {name} (seed {seed})", lambda name=name: reader.of(name))
        check(reader.rest(), pipelines, directory)
    reader.close()
    return fell


@pytest.mark.covers("O5", "D4")
def test_kills_at_random_leave_one_report_of_each_revocation(kafka: TestKafka, tmp_path: Path, empty_log: str) -> None:
    with ThreadPoolExecutor(INSTALLATIONS) as threads:
        running = [
            threads.submit(killed_at_random, kafka, tmp_path / str(seed), empty_log, seed)
            for seed in range(INSTALLATIONS)
        ]
        fell = sum((one.result() for one in running), Counter[str]())
    print(f"kills fell: {dict(fell)}")
    assert fell.total() == INSTALLATIONS * KILLS_OF_EACH
    assert fell["stored"] + fell["stored in part"] > 0, fell


@pytest.mark.covers("O5", "D4")
def test_two_apis_of_which_one_is_frozen_write_one_report_of_each(
    kafka: TestKafka, prefix: str, start: StartService, writer: Writer, tmp_path: Path, empty_log: str
) -> None:
    apis = [start("api", SLUICE_SQL_URL=empty_log) for _ in range(2)]
    for api in apis:
        api.ready()
    reader = Reader(kafka, prefix, topics.REPORTS.name)
    pipelines = [f"p{number}" for number in range(36)]
    for number, name in enumerate(pipelines):
        writer.tell(*breach(Teller(name)))
        frozen: Service = apis[number // 12 % 2]
        if number % 12 == 6:  # wherever it is
            frozen.send(signal.SIGSTOP)
        elif number % 12 == 11:
            time.sleep(SESSION_TIMEOUT_MS / 1_000 + 1)
            frozen.send(signal.SIGCONT)
    wait_for("all reports", lambda: reader.of(*pipelines))
    check(reader.rest(), pipelines, tmp_path)
    reader.close()


@pytest.mark.covers("O5", "W7", "D4")
def test_an_artifact_store_that_is_away_is_waited_for_by_one_after_another(
    kafka: TestKafka, prefix: str, start: StartService, writer: Writer, tmp_path: Path, empty_log: str
) -> None:
    apis = [start("api", SLUICE_SQL_URL=empty_log) for _ in range(2)]
    for api in apis:
        api.ready()
    reader = Reader(kafka, prefix, topics.REPORTS.name)
    folder, aside = tmp_path / "artifacts", tmp_path / "aside"
    folder.rename(aside)
    folder.write_text("a file where the folder was")
    pipelines = ["p1", "p2", "p3"]
    for name in pipelines:
        writer.tell(*breach(Teller(name)))
    first = wait_for("one to wait", lambda: next((one for one in apis if AWAY in one.log()), None))
    first.kill()
    apis.remove(first)
    wait_for("the other to wait", lambda: AWAY in apis[0].log())
    assert reader.rest() == []
    folder.unlink()
    aside.rename(folder)
    wait_for("all reports", lambda: reader.of(*pipelines))
    check(reader.rest(), pipelines, tmp_path)
    reader.close()


@pytest.mark.covers("O5")
def test_what_is_no_revocation_of_all_is_passed_over(
    kafka: TestKafka, prefix: str, start: StartService, writer: Writer, tmp_path: Path, empty_log: str
) -> None:
    start("api", SLUICE_SQL_URL=empty_log).ready()
    reader = Reader(kafka, prefix, topics.REPORTS.name)
    told = breach(Teller("p1"))
    for value in (b"\xff", b"{", b'{"accessors": 3}', None):
        writer.write([OutgoingRecord("token.events", b"p1", value, (("ce_type", b"token.revoked"),))])
    for partition in range(2):
        asyncio.run(write_unreadable(kafka.connection, f"{prefix}token.events", partition, b"p1", b"{}"))
    whole = told[-1]
    writer.tell(*told[:-1])
    changed = {"reason": "pipeline_ended"}
    ended = CloudEvent(
        id="ended", source=whole.source, tenant=whole.tenant, subject="p1", time_ms=whole.time_ms,
        data=whole.data.model_copy(update=changed),
    )  # fmt: skip
    one_agent = CloudEvent(
        id="one", source=whole.source, tenant=whole.tenant, subject="p1", time_ms=whole.time_ms,
        data=whole.data.model_copy(update={"agent_id": "a1", "reason": "no_progress"}),
    )  # fmt: skip
    writer.tell(ended, one_agent, *breach(Teller("p2")), whole)
    wait_for("the reports", lambda: reader.of("p1", "p2"))
    check(reader.rest(), ["p1", "p2"], tmp_path)
    [event] = [one for one in reader.found if one.subject == "p1"]
    assert event.causation_id == whole.id
    reader.close()
