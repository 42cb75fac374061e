"""Starts, stops and deaths: what stays, what goes, and what runs side by side."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import sluice_localstack
import tests
from sluice_localstack import Check, KafkaBroker, LocalStack, ServiceSpec, SettingInvalid, StartFailed, TopicSpec
from sluice_localstack.processes import Records, alive_since
from sluice_localstack.services import Backoff
from tests.integration.localstack.tools import ACLS, TOPICS, consume, produce, runs, sleeper, until

Supervise = Callable[..., tuple[subprocess.Popen[str], dict[str, int]]]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """One broker whose data all tests of this module share; each finds it running and leaves it so."""
    directory = tmp_path_factory.mktemp("broker")
    (directory / "data.new").mkdir()
    (directory / "data.new" / "bootstrap.checkpoint").write_bytes(b"half")  # a format that was killed
    with KafkaBroker(directory, principals=["alice"]) as running:
        running.admin().apply_topics(TOPICS)
        running.admin().apply_acls(ACLS)
        yield running


@pytest.mark.covers("D4")
def test_a_killed_broker_comes_back_with_all_it_acknowledged(broker: KafkaBroker) -> None:
    servers, first = broker.bootstrap_servers, broker.pid
    assert produce(broker.client_config("alice"), "orders", b"a", b"b") is None
    assert consume(broker.client_config("alice"), "orders", 2, group="alice-kept") == [b"a", b"b"]
    broker.kill()
    assert broker.pid is None
    assert not broker.ready()
    broker.restart()
    assert broker.bootstrap_servers == servers
    assert broker.pid != first
    assert produce(broker.client_config("alice"), "orders", b"c") is None
    assert consume(broker.client_config("alice"), "orders", 1, group="alice-kept") == [b"c"]  # the offsets were kept
    assert broker.admin().apply_acls(ACLS) == (0, 0)


def test_a_stop_keeps_data_and_a_taken_port_is_changed(broker: KafkaBroker) -> None:
    assert produce(broker.client_config("alice"), "payments", b"x") is not None  # no right, so the rules are in force
    assert produce(broker.client_config(), "payments", b"kept") is None
    before = broker.bootstrap_servers
    broker.stop()
    assert broker.pid is None
    assert (broker.directory / "data" / ".kafka_cleanshutdown").exists()
    assert all(check.ok for check in broker.doctor())
    with socket.create_server(("127.0.0.1", int(before.partition(":")[2]))):
        assert [check.name for check in broker.doctor() if check.next_step] == ["kafka ports"]
        broker.start()
    assert broker.bootstrap_servers != before
    assert consume(broker.client_config(), "payments", 1) == [b"kept"]


def test_a_second_stack_runs_beside_the_first(broker: KafkaBroker, tmp_path: Path) -> None:
    calls: list[str] = []
    with LocalStack(
        tmp_path, topics=[TopicSpec("own", 1)], components=[_Recorder("vault", calls)], environment={}
    ) as stack:
        assert isinstance(stack.kafka, KafkaBroker)
        pid = stack.kafka.pid
        assert stack.kafka.bootstrap_servers != broker.bootstrap_servers
        assert "own" not in broker.admin().topics()
        assert "orders" not in stack.kafka.admin().topics()
        assert [check.name for check in stack.doctor()].count("vault answers") == 1
    assert calls == ["start", "doctor", "stop"]
    assert pid is not None
    assert not psutil.pid_exists(pid)
    assert broker.ready()


class _Recorder:
    """A component that notes what the stack does with it."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self._calls = calls

    def start(self) -> None:
        self._calls.append("start")

    def ready(self) -> bool:
        return True

    def stop(self) -> None:
        self._calls.append("stop")

    def doctor(self) -> list[Check]:
        self._calls.append("doctor")
        return [Check(f"{self.name} answers", True, "")]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Supervise]:
    """Starts supervisors of a stack in `tmp_path`, and ends in the end all that is left of them."""
    started: list[subprocess.Popen[str]] = []

    def start(*, die: bool, **settings: str) -> tuple[subprocess.Popen[str], dict[str, int]]:
        root = Path(tests.__file__).parents[1]
        path = os.pathsep.join([str(root), str(Path(sluice_localstack.__file__).parents[1])])
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.localstack.supervisor", str(tmp_path), "yes" if die else "no"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **settings},
        )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the supervisor ended before its stack was ready"
        return process, json.loads(line)

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    for directory in (tmp_path, tmp_path / "kafka"):
        if directory.exists():
            Records(directory).end_leftovers()


@pytest.mark.covers("D4")
def test_a_killed_supervisor_takes_all_with_it_or_the_next_start_does(tmp_path: Path, supervise: Supervise) -> None:
    supervisor, first = supervise(die=False)
    supervisor.kill()
    supervisor.wait()
    assert all(runs(first[name]) for name in ("kafka", "service"))
    assert {process.pid for process in Records(tmp_path / "kafka").leftovers()} == {first["kafka"]}
    assert first["service"] in {process.pid for process in Records(tmp_path).leftovers()}
    stale = [check for check in LocalStack(tmp_path, environment={}).doctor() if check.name.startswith("stale ")]
    assert [check.ok for check in stale] == [False, False]

    supervisor, second = supervise(die=True)
    assert not any(runs(first[name]) for name in ("kafka", "service"))
    assert second["at"] == first["at"]  # the ports were freed and kept
    supervisor.kill()
    supervisor.wait()
    until(lambda: not any(runs(second[name]) for name in ("kafka", "service")))


@pytest.mark.covers("D4")
def test_a_kafka_that_ends_is_started_again(tmp_path: Path, supervise: Supervise) -> None:
    supervisor, first = supervise(die=True)
    os.kill(first["kafka"], signal.SIGKILL)
    host, _, port = str(first["at"]).partition(":")

    def answers() -> bool:
        with socket.socket() as client:
            return not runs(first["kafka"]) and client.connect_ex((host, int(port))) == 0

    until(answers, timeout_s=60)
    assert supervisor.poll() is None


def test_sigterm_ends_all_in_order_and_leaves_nothing(
    tmp_path: Path, broker: KafkaBroker, supervise: Supervise
) -> None:
    supervisor, pids = supervise(die=True, **_settings(broker, tmp_path))
    service = psutil.Process(pids["service"])
    until(lambda: len(service.children()) == 1)
    child = service.children()[0]
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(30) == 128 + signal.SIGTERM
    assert not runs(service.pid)
    assert not runs(child.pid)
    assert json.loads((tmp_path / "processes.json").read_text()) == {}
    assert broker.ready()  # a given cluster is nobody's to stop


def test_a_start_that_fails_leaves_nothing_running(broker: KafkaBroker, tmp_path: Path) -> None:
    settings = _settings(broker, tmp_path)
    nobody = "http://127.0.0.1:9/readyz"
    program = (sys.executable, "-c", "raise SystemExit('no such thing')")
    broken = ServiceSpec("broken", program, restart=False, ready_url=nobody)
    stack = LocalStack(tmp_path / "data", services=(sleeper(), broken), environment=settings)
    with pytest.raises(StartFailed, match=r"service broken ended with code 1; read .*broken.log:\nno such thing"):
        stack.start()
    assert Records(tmp_path / "data").leftovers() == []
    with pytest.raises(StartFailed, match="program 'no-such-program' was not found"):
        LocalStack(tmp_path / "data", services=(ServiceSpec("x", ("no-such-program",)),), environment=settings).start()


def test_a_format_that_was_killed_was_done_again(broker: KafkaBroker) -> None:
    assert broker.ready()
    assert not [*broker.directory.glob("data.new"), *broker.directory.glob("format.*")]


def test_files_that_are_not_kafkas_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "diary").write_text("mine")
    with pytest.raises(StartFailed, match=r"data holds files, but is no Kafka storage .*; move it away"):
        KafkaBroker(tmp_path).start()
    assert (tmp_path / "data" / "diary").read_text() == "mine"


def test_a_lost_password_is_told_before_anything_is_changed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.properties").touch()
    with pytest.raises(SettingInvalid, match=r"admin.json is missing, but .* holds data that knows its password"):
        KafkaBroker(tmp_path).start()
    assert not (tmp_path / "credentials" / "admin.json").exists()


def test_a_pid_that_was_given_again_is_not_ours() -> None:
    created = psutil.Process().create_time()
    assert alive_since(os.getpid(), created) is not None
    assert alive_since(os.getpid(), created - 60) is None


def test_restarts_wait_longer_and_longer_up_to_a_limit() -> None:
    backoff = Backoff()
    waits = []
    for _ in range(8):
        backoff.died(now=100.0, ran_s=0.1)
        waits.append(round(backoff.due - 100.0, 3))
    assert waits == [0.0, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    backoff.died(now=200.0, ran_s=60.0)
    assert backoff.due == 200.0


def _settings(broker: KafkaBroker, directory: Path) -> dict[str, str]:
    """The settings that give the broker to a stack as an existing cluster."""
    password = directory / "password"
    password.write_text(broker.client_config()["sasl.password"])
    return {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap_servers,
        "KAFKA_USERNAME": "admin",
        "KAFKA_PASSWORD_FILE": str(password),
    }
