"""The process `monitor`: error budgets."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from sluice_observability.bootstrap.monitor import Monitor
from sluice_observability.settings import MonitorSettings
from sluice_runtime.http import Readiness, probes_app
from sluice_runtime.http_server import serve
from sluice_runtime.kafka.broker import KafkaBroker
from sluice_runtime.metrics import (
    ALERT_DELAY,
    ALERTS_RAISED,
    BUDGETS_SET,
    MONITOR_AHEAD,
    PARTITIONS_OWNED,
    RECORDS_REFUSED,
    SIGNALS_OBSERVED,
    SIGNALS_UNHEEDED,
    Metrics,
)

SERVICE = "observability-monitor"

SHOW_INTERVAL_S = 0.2
"""How old readiness and metrics may be."""

BUDGETS, PARTITIONS = "budgets", "partitions"


async def run(settings: MonitorSettings, stop: asyncio.Event) -> None:
    """Runs the monitor until `stop` is set."""
    for name in ("faust", "mode"):  # they tell each step of each rebalance as INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    metrics = Metrics(SERVICE, settings.instance_id)
    readiness = Readiness(BUDGETS, PARTITIONS)
    client_id = f"{SERVICE}-{settings.instance_id}"
    async with (
        KafkaBroker(settings.kafka(), prefix=settings.topic_prefix, client_id=client_id) as broker,
        serve(probes_app(readiness, metrics), host=settings.http_host, port=settings.http_port),
    ):
        monitor = Monitor.wired(settings, broker)
        showing = asyncio.create_task(_show(monitor, readiness, metrics))
        try:
            await monitor.run(stop)
        finally:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing


async def _show(monitor: Monitor, readiness: Readiness, metrics: Metrics) -> None:
    while True:
        owned = () if monitor.watch is None else monitor.watch.owned
        metrics.gauge(PARTITIONS_OWNED).set(len(owned))
        ahead_ms = None if monitor.watch is None else monitor.watch.ahead_ms
        if ahead_ms is not None:
            metrics.gauge(MONITOR_AHEAD).set(ahead_ms / 1_000)
        if monitor.records.loaded.is_set():
            readiness.met(BUDGETS)
        if owned:
            readiness.met(PARTITIONS)
        else:
            readiness.missing(PARTITIONS, "not in the group, or partitions are being restored")
        metrics.gauge(BUDGETS_SET).set(len(monitor.budgets.records))
        figures = monitor.take_figures()
        for kind, count in figures.observed.items():
            metrics.counter(SIGNALS_OBSERVED, type=kind).inc(count)
        for reason, count in figures.unheeded.items():
            metrics.counter(SIGNALS_UNHEEDED, reason=reason).inc(count)
        for (topic, reason), count in figures.refused.items():
            metrics.counter(RECORDS_REFUSED, topic=topic, reason=reason).inc(count)
        for (condition, action), count in figures.alerts.items():
            metrics.counter(ALERTS_RAISED, condition=condition, action=action).inc(count)
        for delay_ms in figures.delays_ms:
            metrics.histogram(ALERT_DELAY).observe(delay_ms / 1_000)
        await asyncio.sleep(SHOW_INTERVAL_S)
