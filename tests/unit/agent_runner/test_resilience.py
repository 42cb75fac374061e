"""Retries, back-off, the circuit breaker; and the stream parser and the store that tries again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice_agent_runner.adapters.patient_store import WAITS_S, PatientArtifactStore
from sluice_agent_runner.adapters.resilient import Breaker, ResilientProvider, RetryPolicy
from sluice_agent_runner.adapters.routing import ModelRouter
from sluice_agent_runner.adapters.sse import SseParser
from sluice_agent_runner.domain.conversation import ChatMessage, ModelReply, ModelRequest
from sluice_agent_runner.measures import Measures
from sluice_agent_runner.ports import Caller, ModelError, ModelRefused, ModelUnavailable
from sluice_contracts.messages.base import ArtifactRef
from sluice_runtime.artifacts import ArtifactStoreUnavailable
from sluice_runtime.metrics import Metrics
from tests.unit.agent_runner.builders import Alone, Store, TestTime, reply

DOWN = ModelUnavailable("model_server_error", "500")
LIMITED = ModelUnavailable("rate_limited", "429", retry_after_s=5)
WRONG = ModelRefused("model_unauthorized", "401")


class Line:
    """A model that does what stands in a line, and then answers."""

    def __init__(self, outcomes: Sequence[ModelError]) -> None:
        self.outcomes = list(outcomes)
        self.retries: list[int] = []

    async def complete(self, request: ModelRequest, caller: Caller) -> ModelReply:
        self.retries.append(request.retry)
        if self.outcomes:
            raise self.outcomes.pop(0)
        return reply(text="ok")


def request(model: str | None = None) -> ModelRequest:
    return ModelRequest("p", "a", 1, "t", "r", 1, model, (ChatMessage("user", "x"),), (), 100)


def provider(line: Line, time: TestTime) -> ResilientProvider:
    return ResilientProvider("test", line, RetryPolicy(), time, Measures(Metrics("agent-runner", "test")))


@pytest.mark.parametrize(
    ("outcomes", "slept", "calls"),
    [
        ([], [], 1),
        ([DOWN], [2.0], 2),
        ([DOWN, DOWN, DOWN], [2.0, 4.0, 8.0], 4),
        ([LIMITED, DOWN, LIMITED], [5.0, 4.0, 8.0], 4),
    ],
)
@pytest.mark.covers("W3")
def test_calls_are_repeated_with_growing_waits(outcomes: list[ModelError], slept: list[float], calls: int) -> None:
    line, time = Line(outcomes), TestTime()
    answer = asyncio.run(provider(line, time).complete(request(), Alone()))
    assert answer.calls == calls
    assert time.slept_s == slept
    assert line.retries == list(range(calls))


@pytest.mark.parametrize(
    ("outcomes", "error", "calls"),
    [
        ([DOWN] * 9, DOWN, 4),
        ([WRONG] * 9, WRONG, 1),
        ([DOWN, WRONG], WRONG, 2),
        ([ModelUnavailable("rate_limited", "429", retry_after_s=61)] * 2, None, 1),
    ],
)
@pytest.mark.covers("W3")
def test_giving_up(outcomes: list[ModelError], error: ModelError | None, calls: int) -> None:
    line = Line(outcomes)
    with pytest.raises(ModelError) as caught:
        asyncio.run(provider(line, TestTime()).complete(request(), Alone()))
    assert error is None or caught.value is error
    assert len(line.retries) == calls


@pytest.mark.covers("W3")
def test_the_breaker_opens_after_five_failures_in_a_row_and_one_call_tries() -> None:
    breaker = Breaker(RetryPolicy())
    for _ in range(4):
        breaker.failed(0)
    assert breaker.open_for_ms(0) == 0
    breaker.failed(1_000)
    assert breaker.open_for_ms(2_000) == 59_000
    assert breaker.open_for_ms(61_000) == 0  # this one tries
    assert breaker.open_for_ms(61_000) == 60_000  # the others wait for its outcome
    breaker.failed(62_000)
    assert breaker.open_for_ms(63_000) == 59_000
    assert breaker.open_for_ms(122_000) == 0
    breaker.answered()
    assert breaker.open_for_ms(122_001) == 0


@pytest.mark.covers("W3")
def test_an_open_breaker_is_waited_for_and_asks_nobody() -> None:
    async def scenario() -> None:
        line, time = Line([DOWN] * 5), TestTime()
        asked = provider(line, time)
        with pytest.raises(ModelUnavailable):
            await asked.complete(request(), Alone())
        begun_ms = time.now_ms()
        answer = await asked.complete(request(), Alone())  # the fifth failure, 60 s of silence, then the answer
        assert answer.calls == 2
        assert time.now_ms() - begun_ms >= 60_000
        assert len(line.retries) == 6

    asyncio.run(scenario())


@pytest.mark.covers("W3")
def test_an_endless_outage_ends_the_attempt_and_limits_on_the_rate_do_not_open_the_breaker() -> None:
    async def scenario() -> None:
        line = Line([DOWN] * 100)
        asked = provider(line, TestTime())
        with pytest.raises(ModelUnavailable):
            await asked.complete(request(), Alone())
        with pytest.raises(ModelUnavailable, match=r"model_breaker_open|500"):
            await asked.complete(request(), Alone())
        assert len(line.retries) <= 8
        limited = Line([LIMITED] * 8)
        patient = provider(limited, TestTime())
        for _ in range(2):
            with pytest.raises(ModelUnavailable, match="429"):
                await patient.complete(request(), Alone())
        assert (await patient.complete(request(), Alone())).calls == 1

    asyncio.run(scenario())


@pytest.mark.covers("W3")
def test_one_scenario_s_failures_do_not_silence_another() -> None:
    async def scenario() -> None:
        bad, good, time = Line([DOWN] * 100), Line([]), TestTime()

        class Scripted:
            async def complete(self, request: ModelRequest, caller: Caller) -> ModelReply:
                return await (bad if request.model == "scripted:bad" else good).complete(request, caller)

        router = ModelRouter(
            "test", good, Scripted(), RetryPolicy(), time, Measures(Metrics("agent-runner", "test"))
        )  # fmt: skip
        for _ in range(2):
            with pytest.raises(ModelUnavailable):
                await router.complete(request("scripted:bad"), Alone())
        slept = len(time.slept_s)
        for model in ("scripted:good", "some/model", None):
            assert (await router.complete(request(model), Alone())).text == "ok"
        assert len(time.slept_s) == slept

    asyncio.run(scenario())


@given(st.lists(st.binary(max_size=12)), st.data())
def test_events_do_not_depend_on_how_the_stream_is_cut(datas: list[bytes], data: st.DataObject) -> None:
    clean = [one.replace(b"\n", b"").replace(b"\r", b"") for one in datas]
    stream = b"".join(b": comment\n" + b"data: " + one + b"\r\n\r\n" for one in clean)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    parser = SseParser()
    found = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += parser.feed(stream[begin:end])
    assert found == clean


class Flaky(Store):
    """A store that fails so many times."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def put(
        self, body: bytes, *, media_type: str = "text/plain", name: str | None = None, kind: str | None = None
    ) -> ArtifactRef:
        self._fail()
        return await super().put(body, media_type=media_type, name=name, kind=kind)

    async def get(self, sha256: str) -> bytes:
        self._fail()
        return await super().get(sha256)

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise ArtifactStoreUnavailable("away")


@pytest.mark.parametrize("failures", [0, 1, 5])
def test_a_short_outage_of_the_store_loses_nothing(failures: int) -> None:
    async def scenario() -> None:
        time, store = TestTime(), Flaky(failures)
        patient = PatientArtifactStore(store, time)
        ref = await patient.put(b"paid", name="n", kind="k")
        assert (ref.name, ref.kind) == ("n", "k")
        assert time.slept_s == list(WAITS_S[:failures])
        store.failures = failures
        assert await patient.get(ref.sha256) == b"paid"

    asyncio.run(scenario())


def test_a_long_outage_of_the_store_is_told() -> None:
    with pytest.raises(ArtifactStoreUnavailable):
        asyncio.run(PatientArtifactStore(Flaky(6), TestTime()).put(b"x"))
