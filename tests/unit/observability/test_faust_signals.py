"""The monitor's stream by Faust, without Kafka: its own methods, called as Faust calls them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors

from sluice_contracts.topics import Principal
from sluice_observability.adapters.faust_faults import unavailable
from sluice_observability.adapters.faust_signals import WAITING_MAX_RECORDS, FaustSignals
from sluice_observability.domain.budget_limits import Budgets, Limits
from sluice_observability.handlers.budget_watch import BudgetWatch
from sluice_observability.handlers.refusals import DeadLetterOffice
from sluice_runtime.broker import BrokerUnavailable
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.memory import MemoryBroker, MemoryGroups, MemoryLog
from tests.doubles import ManualClock

PARTITIONS = 2
DEADLINE_S = 5


def signals() -> FaustSignals:
    clock = ManualClock()
    topics = {"signals": PARTITIONS, "alerts": PARTITIONS, "dlq.signals": 1}
    broker = MemoryBroker(MemoryLog(topics, clock), MemoryGroups())
    letters = DeadLetterOffice(broker, clock, window_records=100, refused_by=Principal.MONITOR)
    watch = BudgetWatch(Budgets(Limits()), broker, letters, clock, PARTITIONS)
    return FaustSignals(
        KafkaConnection("127.0.0.1:9"), prefix="", partitions=PARTITIONS, instance="m1", session_timeout_ms=10_000,
        watch=watch,
    )  # fmt: skip


class Stream:
    """What Faust hands out: one message after the other, as long as somebody takes them."""

    def __init__(self, count: int) -> None:
        self.taken = 0
        self._count = count

    def noack(self) -> Stream:
        return self

    async def events(self) -> AsyncIterator[Any]:
        for number in range(self._count):
            self.taken += 1
            yield SimpleNamespace(message=SimpleNamespace(partition=number % PARTITIONS, offset=number))


@pytest.mark.covers("O4")
@pytest.mark.parametrize("change", ["_on_revoked", "_on_assigned"])
def test_a_rebalance_while_much_waits_does_not_stop_the_reader(change: str) -> None:
    async def scenario() -> None:
        life, stream = signals(), Stream(WAITING_MAX_RECORDS + 10)
        reading = asyncio.create_task(life._read(stream))
        async with asyncio.timeout(DEADLINE_S):
            while stream.taken < WAITING_MAX_RECORDS:
                await asyncio.sleep(0)
        await asyncio.wait([reading], timeout=0.05)
        assert stream.taken == WAITING_MAX_RECORDS, "so much is read ahead, no more"
        await getattr(life, change)(life._app, set())
        async with asyncio.timeout(DEADLINE_S):
            await reading
        assert stream.taken == WAITING_MAX_RECORDS + 10

    asyncio.run(scenario())


def raised_in(module: str, error: Exception, via: Callable[[], None] | None = None) -> Exception:
    """The error as code of a module raises it, or what that code calls."""
    scope: dict[str, Any] = {"__name__": module, "error": error, "via": via}
    exec("def fail():\n    if via: via()\n    raise error", scope)
    try:
        scope["fail"]()
    except Exception as raised:
        return raised
    raise AssertionError("it raises")


def ours() -> None:
    raise raised_in("sluice_observability.handlers.budget_watch", KeyError("p"))


THEIRS = [
    BrokerUnavailable("away"), errors.KafkaConnectionError(), errors.NotLeaderForPartitionError(),
    errors.ConsumerStoppedError(), ConnectionResetError(), TimeoutError(),
    raised_in("faust.transport.consumer", AssertionError()), raised_in("mode.services", RuntimeError("stopped")),
    raised_in("aiokafka.consumer.fetcher", KeyError("p")),
    raised_in("sluice_observability.x", KeyError(), lambda: (_ for _ in ()).throw(raised_in("faust.x", KeyError()))),
]  # fmt: skip
OURS = [
    KeyError("p"), raised_in("sluice_observability.domain.budgets", KeyError("p")),
    raised_in("faust.agents.agent", ValueError(), ours), errors.TopicAuthorizationFailedError(),
]  # fmt: skip


@pytest.mark.covers("O4")
@pytest.mark.parametrize("error", THEIRS, ids=repr)
def test_what_kafka_and_faust_raise_begins_another_life(error: Exception) -> None:
    assert isinstance(unavailable(error), BrokerUnavailable)


@pytest.mark.covers("O4")
@pytest.mark.parametrize("error", OURS, ids=repr)
def test_what_our_code_raises_is_no_absence_of_kafka(error: Exception) -> None:
    assert unavailable(error) is None


def test_an_error_of_faust_s_own_leaves_its_trace(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        unavailable(raised_in("faust.transport.consumer", AssertionError("not subscribed")))
    [record] = caplog.records
    assert record.exc_info is not None


class App:
    """A Faust app that has started, and crashes if it is given a reason."""

    def __init__(self, crash_reason: BaseException | None = None) -> None:
        self._crashed = asyncio.Event()
        self.crash_reason = crash_reason
        self.stopped = False
        if crash_reason is not None:
            self._crashed.set()

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped = True


def end_of(app: Callable[[], App], life: Callable[[FaustSignals], None] = lambda _: None) -> BaseException | None:
    """How a run ends."""

    async def scenario() -> None:
        run = signals()
        run._app = app()
        life(run)
        async with asyncio.timeout(DEADLINE_S):
            await run.run(asyncio.Event())
        assert run._app.stopped

    try:
        asyncio.run(scenario())
    except BaseException as error:
        return error
    return None


@pytest.mark.covers("O4")
def test_a_defect_ends_a_run_as_it_is_wherever_it_is_found() -> None:
    defect = raised_in("sluice_observability.domain.budgets", KeyError("p"))

    async def fails(*_: Any) -> None:
        raise defect

    def in_a_step(life: FaustSignals) -> None:
        life._watch.ask = fails  # type: ignore[attr-defined]

    def in_a_callback(life: FaustSignals) -> None:
        life._app.assignor = None  # type: ignore[attr-defined]
        asyncio.get_running_loop().create_task(life._on_recovered()).add_done_callback(lambda done: done.exception())

    assert end_of(App, in_a_step) is defect
    assert end_of(lambda: App(defect)) is defect
    assert isinstance(end_of(App, in_a_callback), AttributeError)


@pytest.mark.covers("O4")
@pytest.mark.parametrize(
    "reason",
    [errors.CommitFailedError(), raised_in("faust.tables.recovery", AssertionError()), asyncio.CancelledError()],
)
def test_a_crash_of_faust_s_own_is_an_absence(reason: BaseException) -> None:
    assert isinstance(end_of(lambda: App(reason)), BrokerUnavailable)


@pytest.mark.covers("O4")
def test_a_wait_that_a_client_gave_up_is_an_absence() -> None:
    async def given_up() -> None:
        raise asyncio.CancelledError

    def life(run: FaustSignals) -> None:
        run._watch.ask = given_up  # type: ignore[attr-defined]

    assert isinstance(end_of(App, life), BrokerUnavailable)


@pytest.mark.covers("V5", "O4")
def test_who_stood_still_while_it_listened_tells_nothing() -> None:
    """The timers are looked at only by who is awake: others may own the partitions by then."""
    looked = []

    async def listened(*_: Any) -> dict[int, int]:
        run._ticked_s -= run._frozen_s + 1
        return {0: 1}

    async def look(*_: Any) -> None:
        looked.append(1)

    def life(one: FaustSignals) -> None:
        nonlocal run
        run = one
        one._watch.listen, one._watch.look = listened, look  # type: ignore[attr-defined]

    run: FaustSignals
    assert isinstance(end_of(App, life), BrokerUnavailable)
    assert looked == []
