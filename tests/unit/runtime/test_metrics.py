"""The catalogue is lawful, and what is counted is shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sluice_runtime import metrics
from sluice_runtime.metrics import CATALOGUE, Counter, Histogram, Metric, Metrics


@pytest.mark.parametrize("metric", CATALOGUE, ids=[metric.name for metric in CATALOGUE])
def test_a_metric_is_named_as_prometheus_wants_it(metric: Metric) -> None:
    assert metric.name.startswith("sluice_")
    assert metric.name.endswith("_total") == isinstance(metric, Counter)
    assert metric.name.endswith("_seconds") or not isinstance(metric, Histogram)
    assert metric.help.endswith(".")
    assert not any(label.endswith("_id") or label == "id" for label in metric.labels)


def test_each_is_defined_once_and_in_the_catalogue() -> None:
    defined = [value for value in vars(metrics).values() if isinstance(value, Metric)]
    assert sorted(one.name for one in defined) == sorted(one.name for one in CATALOGUE)
    assert len({one.name for one in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.covers("O7")
def test_what_is_counted_is_shown() -> None:
    made = Metrics("spawner", "spawner-0")
    for _ in range(3):
        made.counter(metrics.RECORDS_REFUSED, topic="pipeline.commands", reason="not_json").inc()
    made.gauge(metrics.PARTITIONS_OWNED).set(4)
    made.histogram(metrics.COMMIT_DURATION).observe(0.003)
    text = made.exposition()[0].decode()
    assert 'sluice_service_info{instance="spawner-0",service="spawner"} 1.0' in text
    assert 'sluice_records_refused_total{reason="not_json",topic="pipeline.commands"} 3.0' in text
    assert "sluice_partitions_owned 4.0" in text
    assert 'sluice_commit_duration_seconds_bucket{le="0.005"} 1.0' in text
    assert "process_resident_memory_bytes" in text
    assert "sluice_http_requests_total" not in text


def test_somebody_counts_each() -> None:
    root = Path(metrics.__file__).parents[4]
    sources = [path.read_text() for part in ("libs", "services") for path in (root / part).rglob("*.py")]
    names = [name for name, value in vars(metrics).items() if isinstance(value, Metric)]
    unused = [name for name in names if sum(name in re.findall(r"\w+", source) for source in sources) < 2]
    assert unused in ([], ["SERVICE_INFO"]), "a metric that nobody counts is left out of the catalogue"


def test_two_processes_in_one_have_their_own() -> None:
    first, second = Metrics("a", "1"), Metrics("b", "2")
    first.gauge(metrics.PARTITIONS_OWNED).set(7)
    assert b"sluice_partitions_owned" not in second.exposition()[0]


def test_labels_that_the_catalogue_does_not_name_are_refused() -> None:
    with pytest.raises(ValueError):
        Metrics("a", "1").counter(metrics.RECORDS_REFUSED, partition="1")
    with pytest.raises(ValueError):
        Metrics("a", "1").counter(metrics.RECORDS_REFUSED)
