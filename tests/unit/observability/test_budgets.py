"""Counting breaches, as tables: where each window, grace and deadline begins and ends."""

from __future__ import annotations

import dataclasses

import pytest

from sluice_contracts.envelope import CloudEvent
from sluice_contracts.messages import Message
from sluice_contracts.messages.alert import AlertRaised, BudgetSet
from sluice_contracts.messages.signal import ErrorReported, ProgressReported, ViolationReported, WatchChanged
from sluice_observability.domain.budget_limits import PIPELINES_MAX_COUNT, Budgets, Limits
from sluice_observability.domain.budget_state import AGENTS_MAX_COUNT, FORGET_MS, HORIZON_MS, Pipeline, Signal
from sluice_observability.domain.budgets import Outcome, due, observe, settle, tenant_of
from sluice_spawner.domain.policy import SpawnerPolicy

START = 1_800_000_000_000
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ERROR = ErrorReported(code="timeout")
KEY = f"sk-or-v1-{'0123456789abcdef' * 4}"


def signal(data: Message, at: int, identity: str | None = None, *, appended: int | None = None) -> Signal:
    event = CloudEvent(identity or f"{data.type}-{at}", "runner/1", "acme", "p", START + at, data, traceparent=TRACE)
    return Signal(event, START + (at if appended is None else appended))


def fold(signals: list[Signal], limits: Limits | None = None, pipeline: Pipeline | None = None) -> Outcome:
    pipeline, alerts, unheeded = pipeline or Pipeline(), [], None
    for one in signals:
        pipeline, new, unheeded = observe(pipeline, one, limits or Limits())
        alerts += new
    return Outcome(pipeline, tuple(alerts), unheeded)


def errors(*moments: int, appended: int | None = None) -> list[Signal]:
    return [signal(ERROR, at, f"e{number}", appended=appended) for number, at in enumerate(moments)]


def calls(*made: tuple[int, int]) -> list[Signal]:
    return [
        signal(ProgressReported(agent_id="a", attempt=1, api_calls=count), at, f"c{number}")
        for number, (at, count) in enumerate(made)
    ]


def content(outcome: Outcome) -> list[tuple[str, str, int, int]]:
    return [
        (one.data.condition, one.data.action, one.data.observed, one.data.breached_at_ms - START)
        for one in outcome.alerts
    ]


@pytest.mark.covers("V5")
@pytest.mark.parametrize(
    ("moments", "broken_at"),
    [
        ([0, 1, 2, 3, 4], None),
        ([0, 1, 2, 3, 4, 5], 5),
        ([0, 1, 2, 3, 4, 59_999], 59_999),
        ([0, 1, 2, 3, 4, 60_000], None),
        ([0, 1, 2, 3, 4, 60_000, 60_000], 60_000),  # [1, 60001) has six
        ([0, 1, 2, 60_000, 60_000, 3], None),  # [0, 60000) and [1, 60001) have five each
        ([0, 1, 2, 60_000, 60_000, 60_000, 3], 3),  # the last to come is in the middle
    ],
)
def test_more_than_five_errors_within_a_minute(moments: list[int], broken_at: int | None) -> None:
    found = fold(errors(*moments, appended=60_001))
    expected = [] if broken_at is None else [("error_budget_exceeded", "revoke_pipeline", 6, broken_at)]
    assert content(found) == expected
    assert found.pipeline.revoked is bool(expected)


@pytest.mark.covers("V5")
def test_an_alert_says_what_broke_it() -> None:
    (alert,) = fold(errors(0, 1, 2, 3, 4, 5)).alerts
    assert (alert.subject, alert.tenant, alert.source, alert.causation_id) == ("p", "acme", "monitor", "e5")
    assert alert.time_ms == START + 5
    assert alert.traceparent is not None
    assert alert.traceparent.startswith(TRACE[:36])
    assert alert.data == AlertRaised(
        condition="error_budget_exceeded", action="revoke_pipeline", observed=6, limit=5, window_ms=60_000,
        evidence=("e0", "e1", "e2", "e3", "e4", "e5"), breached_at_ms=START + 5,
        detail="6 errors within 60 s; 5 are allowed",
    )  # fmt: skip


def by(one: Signal, tenant: str, source: str = "siem") -> Signal:
    return Signal(dataclasses.replace(one.event, tenant=tenant, source=source), one.appended_ms)


@pytest.mark.covers("V5", "P14")
@pytest.mark.parametrize(
    ("claimed", "tenant", "alert_tenant"),
    [
        (False, "other", "other"),  # the spawner has said nothing yet
        (True, "other", None),
        (True, "acme", "acme"),
        (True, "system", "acme"),  # the installation itself
    ],
)
def test_a_watched_pipeline_is_ended_by_its_tenant_s_signals_alone(
    claimed: bool, tenant: str, alert_tenant: str | None
) -> None:
    watch = WatchChanged(agent_id="a", attempt=1, watched=True)
    known = fold([by(signal(watch, 0), "acme", "spawner/s1" if claimed else "runner/1")])
    violation = by(signal(ViolationReported(policy="egress", severity="CRITICAL"), 1), tenant)
    found = observe(known.pipeline, violation, Limits())
    assert [one.tenant for one in found.alerts] == ([alert_tenant] if alert_tenant else [])
    assert found.pipeline.revoked is bool(alert_tenant)
    assert found.unheeded == (None if alert_tenant else "other_tenant")
    assert tenant_of(known.pipeline, violation) == (alert_tenant or "acme"), "nor are its limits another's"
    if not alert_tenant:
        assert found.pipeline is known.pipeline


@pytest.mark.covers("V5", "P14")
def test_the_spawner_s_word_counts_whoever_spoke_before_and_of_what_has_ended() -> None:
    watch = WatchChanged(agent_id="a", attempt=1, watched=True)
    began = [by(signal(ERROR, 0), "other"), by(signal(watch, 1), "acme", "spawner")]
    violation = signal(ViolationReported(policy="egress", severity="CRITICAL"), 2)
    ended = fold([*began, violation])
    assert [one.tenant for one in ended.alerts] == ["acme"]
    late = by(signal(ERROR, FORGET_MS), "other")
    assert observe(ended.pipeline, late, Limits()) == Outcome(ended.pipeline, unheeded="other_tenant")
    another = observe(ended.pipeline, by(signal(ERROR, FORGET_MS + 2), "other"), Limits()).pipeline
    assert (another.tenant, another.claimed) == ("other", False), "another life of the id"


@pytest.mark.covers("V4", "V5")
@pytest.mark.parametrize(
    ("policy", "detail", "told"),
    [
        ("egress", f"it sent {KEY}", "CRITICAL violation of egress: it sent [redacted:api-key]"),
        (KEY, "", "CRITICAL violation of [redacted:api-key]"),
        ("egress", f"password=1 {'x' * 3_980}", "CRITICAL violation of egress: password=[redacted:password] xx"),
    ],
)
def test_an_alert_holds_no_secret_of_whoever_reports_a_violation(policy: str, detail: str, told: str) -> None:
    violation = ViolationReported(policy=policy, severity="CRITICAL", detail=detail)
    (alert,) = fold([signal(violation, 0)]).alerts
    assert alert.data.detail.startswith(told)
    assert AlertRaised.model_validate(alert.data.model_dump()) == alert.data


@pytest.mark.covers("V5")
@pytest.mark.parametrize(("appended", "counts"), [(300_000, True), (300_001, False)])
def test_what_comes_too_late_counts_in_no_window(appended: int, counts: bool) -> None:
    found = fold(errors(0, appended=appended), Limits(errors_per_minute=0))
    assert bool(found.alerts) is counts
    assert found.unheeded == (None if counts else "late")


@pytest.mark.covers("V5")
@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ([(0, 100)], []),
        ([(0, 50), (59_999, 50)], []),
        ([(0, 101)], [("throttle", 101, 0)]),
        ([(0, 50), (59_999, 51)], [("throttle", 101, 59_999)]),
        ([(0, 50), (60_000, 51)], []),
        ([(0, 101), (9_999, 1_000)], [("throttle", 101, 0)]),  # the grace
        ([(0, 101), (10_000, 101)], [("throttle", 101, 0), ("revoke_pipeline", 101, 10_000)]),
        ([(0, 101), (10_000, 50), (70_000, 51)], [("throttle", 101, 0)]),
        ([(0, 101), (10_000, 50), (69_999, 51)], [("throttle", 101, 0), ("revoke_pipeline", 101, 69_999)]),
        ([(0, 101), (10_001, 51), (9_999, 51), (10_000, 50)],
         [("throttle", 101, 0), ("revoke_pipeline", 101, 10_000)]),
    ],
)  # fmt: skip
def test_calls_are_throttled_first_and_then_end_the_pipeline(
    made: list[tuple[int, int]], expected: list[tuple[str, int, int]]
) -> None:
    found = fold(calls(*made))
    assert content(found) == [("api_call_budget_exceeded", *one) for one in expected]


@pytest.mark.covers("V5")
def test_of_equally_full_windows_the_first_is_told() -> None:
    (alert,) = fold(errors(0, 59_999, 60_001, 60_000, appended=60_001), Limits(errors_per_minute=2)).alerts
    assert alert.data.evidence == ("e1", "e3", "e2")
    both = fold(errors(0, 70_000, 70_000, 30_000, appended=70_000), Limits(errors_per_minute=2)).alerts
    assert both[0].data.evidence == ("e3", "e1", "e2")
    assert fold(errors(0, 65_000, 30_000, appended=65_000), Limits(errors_per_minute=1)).alerts[0].data.evidence == (
        "e0",
        "e2",
    )


@pytest.mark.covers("V5")
def test_a_critical_violation_ends_the_pipeline_at_once() -> None:
    reported = [ViolationReported(policy="egress", severity=one) for one in ("LOW", "HIGH", "CRITICAL", "CRITICAL")]  # type: ignore[arg-type]
    found = fold([signal(one, number, f"v{number}") for number, one in enumerate(reported)])
    assert content(found) == [("policy_violation", "revoke_pipeline", 1, 2)]
    assert fold(errors(*range(3, 9)), pipeline=found.pipeline).alerts == ()


def watch(at: int, *, watched: bool = True, attempt: int = 1, appended: int | None = None) -> Signal:
    return signal(WatchChanged(agent_id="a", attempt=attempt, watched=watched), at, appended=appended)


def came_on(at: int, attempt: int = 1, *, appended: int | None = None) -> Signal:
    return signal(ProgressReported(agent_id="a", attempt=attempt, turn=3), at, appended=appended)


@pytest.mark.covers("V5")
@pytest.mark.parametrize(
    ("signals", "stuck_at"),
    [
        ([watch(0)], 60_001),
        ([watch(0), came_on(20_000)], 80_001),
        ([watch(0, appended=5_000)], 65_001),  # watched since it was appended
        ([watch(0), came_on(20_000, appended=30_000)], 90_001),  # and came on when that was appended
        ([watch(0), came_on(20_000, appended=30_000), came_on(10_000, appended=40_000)], 100_001),
        ([watch(0), watch(10_000, watched=False)], None),
        ([watch(10_000, watched=False), watch(0, appended=10_001)], None),  # out of order
        ([watch(0), watch(10_000, watched=False), watch(30_000)], 90_001),
        ([watch(0), watch(0, attempt=2)], 60_001),
        ([watch(0), came_on(10, attempt=2)], None),  # of attempt 2 nobody has said that it is watched
        ([came_on(0)], None),
        ([watch(0), signal(ERROR, 30_000)], 60_001),  # an error is no progress
    ],
)
def test_progress_is_missed_only_of_who_is_watched(signals: list[Signal], stuck_at: int | None) -> None:
    pipeline = fold(signals).pipeline
    early = due(pipeline, "p", START + (stuck_at or 0) + 999, Limits())
    assert early.alerts == ()
    late = due(pipeline, "p", START + (stuck_at or 10**7) + 1_000, Limits())
    assert content(late) == ([] if stuck_at is None else [("no_progress", "revoke_agent", 60_001, stuck_at)])
    assert due(late.pipeline, "p", START + 10**7, Limits()).alerts == ()
    assert fold([came_on(100_000)], pipeline=late.pipeline).alerts == ()


@pytest.mark.covers("V5")
def test_progress_in_the_backlog_counts_however_late_it_is_read() -> None:
    """A monitor that was away for an hour hears the watch and all progress at once: no alarm."""
    minutes = [watch(0), *(came_on(minute * 50_000) for minute in range(1, 72)), watch(3_560_000, watched=False)]
    assert fold(minutes).alerts == ()
    assert content(fold([watch(0), came_on(61_001 + 1_000)])) == [("no_progress", "revoke_agent", 60_001, 60_001)]


@pytest.mark.covers("V5")
@pytest.mark.parametrize("skew", [-600_000, -65_000, -1_000, 0, 65_000])
def test_what_the_runner_s_clock_says_does_not_matter_to_who_is_stuck(skew: int) -> None:
    came = [came_on(at + skew, appended=at) for at in range(10_000, 600_000, 10_000)]
    found = fold([watch(0), *came])
    assert found.alerts == ()
    assert due(found.pipeline, "p", START + 651_000, Limits()).alerts == ()
    assert content(due(found.pipeline, "p", START + 651_001, Limits())) == [
        ("no_progress", "revoke_agent", 60_001, 650_001)
    ]


def test_agents_are_bounded() -> None:
    made = [
        signal(ProgressReported(agent_id=f"a{number}", attempt=1), number) for number in range(AGENTS_MAX_COUNT + 1)
    ]
    found = fold(made)
    assert len(found.pipeline.agents) == AGENTS_MAX_COUNT
    assert found.unheeded == "too_many_agents"


@pytest.mark.covers("V5")
def test_each_limit_comes_from_the_nearest_scope_that_sets_it() -> None:
    budgets = Budgets(Limits(errors_per_minute=7))
    assert budgets.limits("acme", "p") == Limits(7, 100, 60_000)
    budgets.put("installation", BudgetSet(scope="installation", errors_per_minute=6, progress_timeout_s=90))
    budgets.put("tenant/acme", BudgetSet(scope="tenant", name="acme", errors_per_minute=0))
    budgets.put("pipeline/p", BudgetSet(scope="pipeline", name="p", api_calls_per_minute=9))
    assert budgets.limits("acme", "p") == Limits(0, 9, 90_000)
    assert budgets.limits("other", "q") == Limits(6, 100, 90_000)
    budgets.put("tenant/acme", None)
    assert budgets.limits("acme", "p") == Limits(6, 9, 90_000)


@pytest.mark.covers("V5")
def test_a_lower_limit_counts_from_the_next_signal_on() -> None:
    before = fold(errors(0, 1, 2), Limits(errors_per_minute=5))
    assert due(before.pipeline, "p", START + 10_000, Limits(errors_per_minute=1)).alerts == ()
    after = fold([signal(ERROR, 3, "e3")], Limits(errors_per_minute=1), before.pipeline)
    assert content(after) == [("error_budget_exceeded", "revoke_pipeline", 4, 3)]


@pytest.mark.covers("V5")
def test_a_lower_limit_counts_in_windows_with_the_next_signal_only() -> None:
    before = fold(errors(0, 0, 0), Limits(errors_per_minute=5))
    after = fold([signal(ERROR, 60_000, "e3")], Limits(errors_per_minute=2), before.pipeline)
    assert after.alerts == ()


def test_without_a_limit_nothing_is_kept() -> None:
    found = fold([*errors(*range(50)), *calls((0, 6_000))], Limits(5_001, 5_001))
    assert found.alerts == ()
    assert (found.pipeline.errors, found.pipeline.calls) == ({}, {})


@pytest.mark.covers("V5")
@pytest.mark.parametrize("looked", [False, True])
def test_another_life_of_an_id_breaks_its_budgets_anew(looked: bool) -> None:
    """Half a day before the spawner takes the id again, the monitor has forgotten its former life."""
    first = fold(errors(0, 1, 2, 3, 4, 5))
    assert first.pipeline.revoked
    begins = SpawnerPolicy().finished_retention_s * 1_000
    late = fold([signal(ERROR, begins // 30, "late")], pipeline=first.pipeline)
    assert (late.alerts, late.pipeline.revoked) == ((), True)
    found = settle(late.pipeline, START + begins) if looked else late.pipeline
    assert not (looked and found)
    second = fold(errors(*range(begins, begins + 6)), pipeline=found)
    assert content(second) == [("error_budget_exceeded", "revoke_pipeline", 6, begins + 5)]
    assert second.alerts[0].id != first.alerts[0].id
    again = fold(errors(*range(begins, begins + 6)), pipeline=found)
    assert again == second, "made again, it is the same"


@pytest.mark.covers("V5")
@pytest.mark.parametrize(
    ("told", "forgotten_after_ms"),
    [
        ([signal(ERROR, 0)], HORIZON_MS),
        ([signal(WatchChanged(agent_id="a", attempt=1, watched=True), 0)], FORGET_MS),
        (
            [signal(WatchChanged(agent_id="a", attempt=1, watched=one), at) for at, one in [(-1, True), (0, False)]],
            HORIZON_MS,
        ),
        ([signal(ViolationReported(policy="p", severity="CRITICAL"), 0)], FORGET_MS),
        (calls((0, 101)), FORGET_MS),
    ],
)
def test_what_was_not_told_and_is_not_watched_is_forgotten_with_its_windows(
    told: list[Signal], forgotten_after_ms: int
) -> None:
    pipeline = fold(told).pipeline
    assert settle(pipeline, START + forgotten_after_ms - 1) is not None
    assert settle(pipeline, START + forgotten_after_ms) is None


@pytest.mark.covers("V5")
def test_an_agent_whose_missing_progress_was_told_is_not_told_again_a_day_later() -> None:
    watched = WatchChanged(agent_id="a", attempt=1, watched=True)
    stuck = due(fold([signal(watched, 0, "w1")]).pipeline, "p", START + 100_000, Limits())
    assert len(stuck.alerts) == 1
    day = 86_400_000
    ended = fold([signal(WatchChanged(agent_id="a", attempt=1, watched=False), 100_000, "w2")], pipeline=stuck.pipeline)
    again = fold([signal(watched, day, "w3")], pipeline=ended.pipeline)
    assert due(again.pipeline, "p", START + 2 * day, Limits()).alerts == ()


@pytest.mark.covers("V5")
def test_limits_of_single_pipelines_are_bounded_and_the_last_count() -> None:
    budgets, more = Budgets(Limits()), 10
    budgets.put("tenant/acme", BudgetSet(scope="tenant", name="acme", errors_per_minute=7))
    for number in range(PIPELINES_MAX_COUNT + more):
        budget = BudgetSet(scope="pipeline", name=f"p{number}", errors_per_minute=1)
        gone = {f"pipeline/p{number - PIPELINES_MAX_COUNT}"} if number >= PIPELINES_MAX_COUNT else set()
        assert budgets.put(budget.key, budget) == {budget.key} | gone
    assert len(budgets.records) == PIPELINES_MAX_COUNT + 1
    assert [budgets.limits("acme", f"p{number}").errors_per_minute for number in (more - 1, more)] == [7, 1]
    assert budgets.put(budget.key, budget) == set(), "read again, nothing changes"
