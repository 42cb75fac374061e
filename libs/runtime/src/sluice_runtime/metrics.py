"""The catalogue of metrics: each defined once, here, with its unit and its labels; every service takes them from here.

Names follow Prometheus's conventions: base units, `_total` for what only grows. Label values come from small, closed
sets (topics, reasons, routes); an id is never a label.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client import Counter as _Counter
from prometheus_client import Gauge as _Gauge
from prometheus_client import Histogram as _Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST

FAST_S = (0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Buckets for what the machine does itself: from a decision to a slow write."""

SLOW_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
"""Buckets for what a model or a person's query takes."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What all metrics have. `name` holds the unit; `labels` are the label names in their order."""

    name: str
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Counter(Metric):
    """Something that only grows, from zero at the start of the process."""


@dataclass(frozen=True, slots=True)
class Gauge(Metric):
    """Something that goes up and down."""


@dataclass(frozen=True, slots=True)
class Histogram(Metric):
    """How long something takes, counted into buckets of seconds."""

    buckets_s: tuple[float, ...] = FAST_S


SERVICE_INFO = Gauge("sluice_service_info", "Always 1; says which process this is.", ("service", "instance"))
HTTP_REQUESTS = Counter("sluice_http_requests_total", "Answered requests.", ("method", "route", "status"))
HTTP_DURATION = Histogram("sluice_http_request_duration_seconds", "Until the answer's last byte.", ("method", "route"))

RECORDS_REFUSED = Counter("sluice_records_refused_total", "Records sent to a dead-letter topic.", ("topic", "reason"))
CONSUMER_LAG = Gauge(
    "sluice_consumer_lag_records",
    "Records of a partition that this process has not read; in ClickHouse, for the store.",
    ("topic", "partition"),
)

PARTITIONS_OWNED = Gauge("sluice_partitions_owned", "Partitions that this process decides.")
COMMIT_DURATION = Histogram("sluice_commit_duration_seconds", "To make one batch of decisions durable.")
RESTORE_DURATION = Histogram("sluice_restore_duration_seconds", "To restore a partition's state.", buckets_s=SLOW_S)

ATTEMPTS_RUNNING = Gauge("sluice_attempts_running", "Attempts that have a place and run.")
ATTEMPTS_QUEUED = Gauge("sluice_attempts_queued", "Attempts that wait for a place.")
ATTEMPTS_DEFECTIVE = Counter(
    "sluice_attempts_defective_total", "Attempts that failed as internal_error: each is a defect of the runner."
)
TURNS_FINISHED = Counter("sluice_turns_finished_total", "Turns made durable.", ("provider",))
MODEL_CALLS = Counter("sluice_model_calls_total", "Calls of a model, retries included.", ("provider", "outcome"))
MODEL_DURATION = Histogram("sluice_model_call_duration_seconds", "Of one call.", ("provider",), buckets_s=SLOW_S)
TOOL_CALLS = Counter("sluice_tool_calls_total", "Calls of a tool.", ("tool", "outcome"))

VAULT_CALLS = Counter("sluice_vault_calls_total", "Calls of Vault.", ("operation", "outcome"))
VAULT_DURATION = Histogram("sluice_vault_call_duration_seconds", "Of one call.", ("operation",))

ROWS_WRITTEN = Counter("sluice_rows_written_total", "Rows inserted into ClickHouse.", ("table",))
QUERY_DURATION = Histogram("sluice_query_duration_seconds", "Of one SQL query from outside.", buckets_s=SLOW_S)

TOKENS_LIVE = Gauge("sluice_tokens_live", "Tokens that live, in the partitions of this process.")
TOKEN_ACTS_WANTED = Gauge("sluice_token_acts_wanted", "What has to be done in Vault, and is not done yet.", ("act",))
TOKEN_ACT_DURATION = Histogram(
    "sluice_token_act_duration_seconds", "Of one act in Vault: revoke, mint, renew; all its calls.", ("act",)
)
TOKEN_ACTS_FAILED = Counter(
    "sluice_token_acts_failed_total", "Acts that Vault could not do, or refused; each is tried again.", ("act", "fault")
)
VAULT_AWAY = Gauge("sluice_vault_away", "Whether Vault is away, sealed or overloaded: 1, else 0.")
ORPHANS_FOUND = Counter("sluice_orphans_found_total", "Tokens that Vault knew and nobody else; they are revoked.")
AUDIT_LINES = Counter("sluice_audit_lines_total", "Lines of Vault's audit file that were taken.", ("outcome",))
AUDIT_BEHIND = Gauge("sluice_audit_behind_bytes", "What stands in Vault's audit files and is not taken yet.")
SIGNALS_OBSERVED = Counter("sluice_signals_observed_total", "Signals that budgets were counted by.", ("type",))
SIGNALS_UNHEEDED = Counter(
    "sluice_signals_unheeded_total",
    "Signals that count for nothing: late, of an agent too many, or of another tenant.",
    ("reason",),
)
BUDGETS_SET = Gauge("sluice_budgets_set", "Scopes whose limits a record sets.")
ALERTS_RAISED = Counter("sluice_alerts_raised_total", "Breaches told.", ("condition", "action"))
ALERT_DELAY = Histogram("sluice_alert_delay_seconds", "From the signal's append, or the deadline, to the alert's.")
MONITOR_AHEAD = Gauge("sluice_monitor_ahead_seconds", "The monitor's clock, ahead of Kafka's by no more than this.")

CATALOGUE: tuple[Metric, ...] = (
    SERVICE_INFO, HTTP_REQUESTS, HTTP_DURATION,
    RECORDS_REFUSED, CONSUMER_LAG,
    PARTITIONS_OWNED, COMMIT_DURATION, RESTORE_DURATION,
    ATTEMPTS_RUNNING, ATTEMPTS_QUEUED, ATTEMPTS_DEFECTIVE, TURNS_FINISHED, MODEL_CALLS, MODEL_DURATION, TOOL_CALLS,
    VAULT_CALLS, VAULT_DURATION,
    ROWS_WRITTEN, QUERY_DURATION,
    TOKENS_LIVE, TOKEN_ACTS_WANTED, TOKEN_ACT_DURATION, TOKEN_ACTS_FAILED, VAULT_AWAY, ORPHANS_FOUND,
    AUDIT_LINES, AUDIT_BEHIND,
    SIGNALS_OBSERVED, SIGNALS_UNHEEDED, BUDGETS_SET, ALERTS_RAISED, ALERT_DELAY, MONITOR_AHEAD,
)  # fmt: skip


class Metrics:
    """The metrics of one process, in a registry of their own, with the process's memory, CPU and descriptors.

    A metric appears once it is first asked for. On a hot path keep what `counter`, `gauge` and `histogram` return: the
    look-up costs more than the increment.
    """

    def __init__(self, service: str, instance: str) -> None:
        self._registry = CollectorRegistry()
        self._made: dict[str, _Counter | _Gauge | _Histogram] = {}
        self._series: dict[str, frozenset[tuple[str, ...]]] = {}
        ProcessCollector(registry=self._registry)
        self.gauge(SERVICE_INFO, service=service, instance=instance).set(1)

    def counter(self, metric: Counter, **labels: str) -> _Counter:
        """The counter for these label values.

        Raises:
            ValueError: The labels are not the ones that the catalogue names.
        """
        made = self._made.get(metric.name)
        if made is None:
            made = self._made[metric.name] = _Counter(metric.name, metric.help, metric.labels, registry=self._registry)
        assert isinstance(made, _Counter)
        return made.labels(**labels) if labels or metric.labels else made

    def gauge(self, metric: Gauge, **labels: str) -> _Gauge:
        """The gauge for these label values.

        Raises:
            ValueError: The labels are not the ones that the catalogue names.
        """
        made = self._made.get(metric.name)
        if made is None:
            made = self._made[metric.name] = _Gauge(metric.name, metric.help, metric.labels, registry=self._registry)
        assert isinstance(made, _Gauge)
        return made.labels(**labels) if labels or metric.labels else made

    def series(self, metric: Gauge, values: Mapping[tuple[str, ...], float]) -> None:
        """Gives a gauge exactly these series, by the values of its labels in their order."""
        for gone in self._series.get(metric.name, frozenset()) - values.keys():
            made = self._made[metric.name]
            made.remove(*gone)
        self._series[metric.name] = frozenset(values)
        for labels, value in values.items():
            self.gauge(metric, **dict(zip(metric.labels, labels, strict=True))).set(value)

    def histogram(self, metric: Histogram, **labels: str) -> _Histogram:
        """The histogram, in seconds, for these label values.

        Raises:
            ValueError: The labels are not the ones that the catalogue names.
        """
        made = self._made.get(metric.name)
        if made is None:
            made = self._made[metric.name] = _Histogram(
                metric.name, metric.help, metric.labels, registry=self._registry, buckets=metric.buckets_s
            )
        assert isinstance(made, _Histogram)
        return made.labels(**labels) if labels or metric.labels else made

    def exposition(self) -> tuple[bytes, str]:
        """What `/metrics` answers: the text and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
