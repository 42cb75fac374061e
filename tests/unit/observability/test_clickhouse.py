"""The door to ClickHouse: which errors are waited for, and which are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.handlers.positions import gap_rows
from sluice_observability.ports import StoreUnavailable


@pytest.mark.covers("O1")
def test_a_defect_is_not_waited_for(engine: ClickHouse) -> None:
    with pytest.raises(ClickHouseError):
        engine.rows("SELEC 1")
    with pytest.raises(ClickHouseError):
        engine.insert("positions", gap_rows([], 1))
    with pytest.raises(StoreUnavailable, match="nothing"):
        engine.rows("SELECT * FROM nothing")  # its migration may come yet


def test_a_server_that_does_not_answer_is_waited_for() -> None:
    with pytest.raises(StoreUnavailable):
        ClickHouse.server("http://analyst@127.0.0.1:1/sluice", "secret").rows("SELECT 1")


@pytest.mark.covers("O1")
def test_a_directory_in_use_is_waited_for(engine: ClickHouse, engine_directory: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from sluice_observability.adapters.clickhouse import ClickHouse\n"
        "from sluice_observability.ports import StoreUnavailable\n"
        "try: ClickHouse.embedded(Path(sys.argv[1])).rows('SELECT 1')\n"
        "except StoreUnavailable: sys.exit(3)\n"
    )
    other = subprocess.run(
        [sys.executable, "-c", program, str(engine_directory)], env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert other.returncode == 3
    assert engine.rows("SELECT 1") == [(1,)]


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://a:secret@h:1/d", "holds a password; put it into the file SLUICE_CLICKHOUSE_PASSWORD_FILE"),
        ("tcp://h:9000", "'tcp://h:9000' is no URL of a server; it must be http"),
        ("nonsense", "must be http"),
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, fault: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^SLUICE_CLICKHOUSE_URL.*{fault}") as refused:
        ClickHouse.server(url, None)
    assert "secret" not in str(refused.value)
    environment = {"SLUICE_KAFKA_BOOTSTRAP_SERVERS": "h:1", "SLUICE_CLICKHOUSE_URL": url}
    ended = subprocess.run(
        [sys.executable, "-m", "sluice_observability", "store"],
        env={"PYTHONPATH": ":".join(sys.path), **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2, "the settings can't be used"
    assert "SLUICE_CLICKHOUSE_URL" in ended.stderr + ended.stdout
    assert "secret" not in ended.stderr + ended.stdout
