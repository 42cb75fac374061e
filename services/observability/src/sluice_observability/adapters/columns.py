"""Kafka records to columns of table `log`: the hot path, so that headers are read without decoding any body."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sluice_contracts.codec import STRUCTURED_CONTENT_TYPE
from sluice_contracts.envelope import SYSTEM_TENANT
from sluice_observability.domain import arrow
from sluice_observability.domain.attributes import (
    EPOCH_MAX_MS,
    event_time_ms,
    schema_version,
    sequence_number,
    structured,
)
from sluice_observability.domain.secrets import by_strangers, clean_bytes, clean_headers, clean_texts
from sluice_observability.ports import FetchedMessage, Header

_OWN_COLUMN = frozenset({
    "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_dataschema", "ce_time", "ce_subject", "ce_tenant",
    "ce_causationid", "ce_sequence", "traceparent", "content-type",
})  # fmt: skip
_TENANT = SYSTEM_TENANT.encode()
_NULL = "\\N"
"""A null header value: a map of texts holds no null. As bytes that are not UTF-8, it shows as an escape."""

_VERSIONS_MAX_COUNT = 10_000
"""Cached schema names; the contract has dozens, a hostile producer any number."""


class LogColumns:
    """Collects records and turns them into one table with the columns of `log`, `ingest_time` left out."""

    def __init__(self) -> None:
        self._versions: dict[bytes | None, int] = {}
        self._clear()

    def _clear(self) -> None:
        self.rows = self.value_bytes = 0
        self._names: dict[tuple[str, str], int] = {}
        self._named: list[int] = []
        self._partitions: list[int] = []
        self._offsets: list[int] = []
        self._timestamps: list[int] = []
        self._keys: list[bytes] = []
        self._values: list[bytes | None] = []
        self._sizes: list[int] = []
        self._ids: list[bytes] = []
        self._sources: list[bytes] = []
        self._types: list[bytes] = []
        self._type_versions: list[int] = []
        self._times: list[bytes] = []
        self._subjects: list[bytes] = []
        self._tenants: list[bytes] = []
        self._causes: list[bytes] = []
        self._sequences: list[bytes] = []
        self._traceparents: list[bytes] = []
        self._others: dict[int, Sequence[tuple[str, str]]] = {}

    def add(self, messages: Iterable[FetchedMessage], names: Mapping[str, tuple[str, str]]) -> None:
        """Adds records.

        Args:
            messages: In the order in which they were read.
            names: By Kafka's topic name: the name without prefix, and the incarnation.
        """
        versions = self._versions
        for message in messages:
            value = message.value()
            pairs: Sequence[Header] = message.headers() or ()
            headers: Any = dict(pairs)
            others = [pair for pair in pairs if pair[0] not in _OWN_COLUMN]
            kind = headers.get("content-type")
            if kind is not None and value is not None and kind.startswith(STRUCTURED_CONTENT_TYPE):
                found = structured(value)
                if found is not None:
                    headers, value = found
            if others:
                texts = [(other, _NULL if raw is None else _text(raw)) for other, raw in others]
                self._others[self.rows] = clean_headers(texts)
            get = headers.get
            schema = get("ce_dataschema")
            version = versions.get(schema)
            if version is None:
                if len(versions) >= _VERSIONS_MAX_COUNT:
                    versions.clear()
                version = versions[schema] = schema_version(schema)
            name = names[message.topic()]
            size = 0 if value is None else len(value)
            if value and by_strangers(name[0]):
                value = clean_bytes(value)
            self._named.append(self._names.setdefault(name, len(self._names)))
            self._partitions.append(message.partition())
            self._offsets.append(message.offset())
            self._timestamps.append(message.timestamp()[1])
            key = message.key() or b""
            self._keys.append(key)
            self._values.append(value)
            self._sizes.append(size)
            self._ids.append(get("ce_id") or b"")
            self._sources.append(get("ce_source") or b"")
            self._types.append(get("ce_type") or b"")
            self._type_versions.append(version)
            self._times.append(get("ce_time") or b"")
            self._subjects.append(get("ce_subject") or key)
            self._tenants.append(get("ce_tenant") or _TENANT)
            self._causes.append(get("ce_causationid") or b"")
            self._sequences.append(get("ce_sequence") or b"")
            self._traceparents.append(get("traceparent") or b"")
            self.rows += 1
            self.value_bytes += size

    def take(self) -> Any:
        """Returns the `pyarrow.Table` of what was added, and begins anew."""
        self._clean()
        values = [value or b"" for value in self._values]
        payload, raw = _utf8_or_raw(values)
        timestamps = [_bounded(one) for one in self._timestamps]
        traceparent = _strings(self._traceparents)
        columns: dict[str, Any] = {
            "topic": arrow.choices(self._named, [topic for topic, _ in self._names]),
            "incarnation": arrow.choices(self._named, [incarnation for _, incarnation in self._names]),
            "partition": arrow.integers(self._partitions, pa.uint32()),
            "offset": arrow.integers(self._offsets, pa.uint64()),
            "append_time": arrow.integers(timestamps, arrow.TIME),
            "key": _strings(self._keys),
            "payload": payload,
            "raw": raw,
            "value_bytes": arrow.integers(self._sizes, pa.uint32()),
            "has_value": arrow.integers([value is not None for value in self._values], pa.int32()).cast(pa.bool_()),
            "event_id": self._event_ids(),
            "source": _strings(self._sources).dictionary_encode(),
            "type": _strings(self._types).dictionary_encode(),
            "type_version": arrow.integers(self._type_versions, pa.uint16()),
            "event_time": _event_times(self._times, timestamps),
            "pipeline_id": _strings(self._subjects),
            "tenant": _strings(self._tenants).dictionary_encode(),
            "causation_id": _strings(self._causes),
            "sequence": _sequences(self._sequences),
            "trace_id": pc.utf8_slice_codeunits(traceparent, 3, 35),
            "span_id": pc.utf8_slice_codeunits(traceparent, 36, 52),
            "headers": arrow.mappings(self.rows, self._others),
        }
        self._clear()
        return pa.Table.from_arrays(list(columns.values()), names=list(columns))

    def _clean(self) -> None:
        """Takes secrets out of the attributes of all records: what a stranger gave one goes on through our services."""
        self._keys, self._subjects = clean_texts(self._keys), clean_texts(self._subjects)
        self._sources, self._types = clean_texts(self._sources), clean_texts(self._types)
        self._tenants, self._causes = clean_texts(self._tenants), clean_texts(self._causes)
        # Two secrets become the same text: as an id it would make one event of two, and half a trace is none.
        self._ids = clean_texts(self._ids, instead=b"")
        self._traceparents = clean_texts(self._traceparents, instead=b"")

    def _event_ids(self) -> Any:
        if all(self._ids):
            return _strings(self._ids)
        incarnations = [incarnation for _, incarnation in self._names]
        places = zip(self._named, self._partitions, self._offsets, self._ids, strict=True)
        return _strings([own or f"{incarnations[name]}/{part}/{at}".encode() for name, part, at, own in places])


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _strings(raw: Sequence[bytes]) -> Any:
    """Text; bytes that are not UTF-8 are escaped, so that no reader of the log meets them."""
    try:
        return arrow.binaries(raw).cast(pa.string())
    except pa.ArrowInvalid:
        return arrow.strings(map(_text, raw))


def _utf8_or_raw(values: Sequence[bytes]) -> tuple[Any, Any]:
    """Values as text, and beside it the bytes of those that are none."""
    try:
        return arrow.binaries(values).cast(pa.string()), arrow.binaries([b""] * len(values))
    except pa.ArrowInvalid:
        is_text = [_is_utf8(value) for value in values]
        texts = [value if good else b"" for value, good in zip(values, is_text, strict=True)]
        raws = [b"" if good else value for value, good in zip(values, is_text, strict=True)]
        return arrow.binaries(texts).cast(pa.string()), arrow.binaries(raws)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _event_times(raw: Sequence[bytes], otherwise: Sequence[int]) -> Any:
    """What the sources say; where that is no RFC 3339 time, Kafka's timestamp, as in the codec."""
    try:
        times = arrow.binaries(raw).cast(pa.string()).cast(arrow.TIME)
        bounds = pc.min_max(times.cast(pa.int64())).as_py()
        if bounds["min"] >= 0 and bounds["max"] <= EPOCH_MAX_MS:
            return times
    except pa.ArrowInvalid:
        pass  # at least one is no time
    told = [event_time_ms(_text(one)) for one in raw]
    chosen = [two if one is None else _bounded(one) for one, two in zip(told, otherwise, strict=True)]
    return arrow.integers(chosen, arrow.TIME)


def _bounded(time_ms: int) -> int:
    """Within what ClickHouse can hold: one absurd time must not have a whole insert refused."""
    return min(max(time_ms, 0), EPOCH_MAX_MS)


def _sequences(raw: Sequence[bytes]) -> Any:
    if not any(raw):
        return pa.nulls(len(raw), pa.uint64())
    numbers = [sequence_number(one) for one in raw]
    known = arrow.integers([number is not None for number in numbers], pa.int32()).cast(pa.bool_())
    return pc.if_else(
        known, arrow.integers([number or 0 for number in numbers], pa.uint64()), pa.nulls(len(raw), pa.uint64())
    )
