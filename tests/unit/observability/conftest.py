"""A real embedded engine with the schema, for each test anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.adapters.migrations import migrate, shipped


@pytest.fixture
def engine_directory(tmp_path: Path) -> Path:
    return tmp_path / "clickhouse"


@pytest.fixture
def engine(engine_directory: Path) -> Iterator[ClickHouse]:
    database = ClickHouse.embedded(engine_directory)
    try:
        migrate(database, shipped())
        yield database
    finally:
        database.close()
