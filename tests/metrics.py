"""Reads what a process's metrics say."""

from __future__ import annotations

import re

from sluice_runtime.metrics import Metrics


def lag_of(metrics: Metrics) -> dict[tuple[str, str], float]:
    """`sluice_consumer_lag_records` by topic and partition."""
    text = metrics.exposition()[0].decode()
    found = re.findall(r'^sluice_consumer_lag_records\{partition="(\d+)",topic="([^"]+)"\} (\S+)$', text, re.M)
    return {(topic, number): float(value) for number, topic, value in found}
