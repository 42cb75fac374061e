"""The gate's part of `make soak`: the broker killed in each window, Vault killed and sealed, the monitor killed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from sluice_localstack.kafka.broker import KafkaBroker as LocalKafka
from sluice_runtime.connection import KafkaConnection
from tests.faults.test_gate_kills import kill_in_window
from tests.faults.test_kills import kill_at_random
from tests.faults.test_vault_away import LEAVES, leave_at_random
from tests.gate import RUNNER, SETTINGS, Gate
from tests.integration.observability.test_monitor import COURSES, KILLS_OF_EACH, killed
from tests.kafka import TestKafka
from tests.soak_rows import Row

KILLED_RUNNER = {**SETTINGS, "spawner": {**SETTINGS["spawner"], "SLUICE_LEASE_MS": "2500"}}
"""What a killed runner held is handed out again soon."""

ROUND_KILLS = 20
"""Between two looks at all laws: a fault is found near its cause."""

Round = Callable[[Gate, str, int], object]


def rounds(what: str, name: str, count: int, do: Round, settings: Mapping[str, Mapping[str, str]] = SETTINGS) -> Row:
    """Rounds of faults on one installation, each followed by all laws of topics, credentials and Vault.

    Args:
        what: What the table calls it.
        name: In the seeds.
        count: Of faults, in all.
        do: Makes so many faults from a seed.
        settings: For single services.
    """
    started, faults, done, seeds = time.monotonic(), "none", 0, list[str]()
    with tempfile.TemporaryDirectory(prefix="sluice-soak-") as directory:
        with Gate(Path(directory), settings) as gate:
            while done < count and faults == "none":
                now = min(ROUND_KILLS, count - done)
                seeds.append(f"soak-{name}-{done}")
                try:
                    do(gate, seeds[-1], now)
                    gate.settle()
                    done += now
                except AssertionError as error:
                    faults = f"{seeds[-1]}: {error}"
                print(f"{what}: {done} of {count}, {len(gate.spawned)} pipelines, {faults}", flush=True)
            pipelines = len(gate.spawned)
    minutes = (time.monotonic() - started) / 60
    return Row(f"{what}, {pipelines} pipelines", done, f"{seeds[0]} … {seeds[-1]}", faults, minutes)


def broker_at(window: str, count: int) -> Row:
    """The broker killed in a window."""
    return rounds(
        f"kill -9 of vault-broker at {window}", window, count,
        lambda gate, seed, kills: kill_in_window(gate, window, seed, kills),
    )  # fmt: skip


def runner_with_grants(count: int) -> Row:
    """The runner killed while it holds grants."""
    return rounds(
        "kill -9 of agent-runner with grants", "grants", count,
        lambda gate, seed, kills: kill_at_random(gate, RUNNER, seed, kills), KILLED_RUNNER,
    )  # fmt: skip


def vault_leaves(count: int) -> Iterator[Row]:
    """Vault itself killed, and sealed, so often each."""
    for how in LEAVES:
        yield rounds(
            f"Vault {how}", f"vault-{how}", count,
            lambda gate, seed, times, how=how: leave_at_random(gate, how, seed, times),  # type: ignore[misc]
        )  # fmt: skip


def monitor_kills(count: int) -> Row:
    """The monitor killed while budgets break; what it tells against the oracle, which counts by brute force."""
    started, faults, alerts = time.monotonic(), "none", 0
    courses = range(100, 100 + count // KILLS_OF_EACH)
    with kafka_alone() as kafka, tempfile.TemporaryDirectory(prefix="sluice-soak-") as directory:
        with ThreadPoolExecutor(COURSES) as pool:
            courses_told = pool.map(lambda seed: killed(kafka, Path(directory), seed), courses)
            try:
                for number, told in enumerate(courses_told, 1):
                    alerts += told
                    print(f"monitor: {number * KILLS_OF_EACH} of {count} kills, {alerts} breaches", flush=True)
            except AssertionError as error:
                faults = str(error)
    what = f"kill -9 of monitor while budgets break, {alerts} breaches: false, missed or doubled"
    return Row(what, count, f"{courses[0]}–{courses[-1]}", faults, (time.monotonic() - started) / 60)


@contextmanager
def kafka_alone() -> Iterator[TestKafka]:
    """A broker, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="sluice-soak-") as directory, LocalKafka(Path(directory)) as broker:
        yield TestKafka(KafkaConnection.from_file(broker.credentials_file("admin")))
