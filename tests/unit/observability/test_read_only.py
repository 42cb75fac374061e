"""What analysts may send to the embedded engine, against the real engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice_observability.adapters.clickhouse import ClickHouse
from sluice_observability.adapters.read_only import EmbeddedReadOnly
from sluice_observability.domain.policy import QueryLimits
from sluice_observability.ports import QueryRefused

HOSTILE = [
    "INSERT INTO log (topic) VALUES ('x')",
    "INSERT INTO FUNCTION file('{path}') SELECT 1",
    "DROP TABLE log",
    "DROP VIEW events",
    "TRUNCATE TABLE log",
    "ALTER TABLE log DELETE WHERE 1",
    "ALTER TABLE log UPDATE payload = '' WHERE 1",
    "DELETE FROM log WHERE 1",
    "RENAME TABLE log TO log2",
    "OPTIMIZE TABLE log FINAL",
    "DETACH TABLE log",
    "EXCHANGE TABLES log AND gaps",
    "CREATE TABLE x (a UInt8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE x (a UInt8)",
    "CREATE FUNCTION f AS x -> x",
    "CREATE USER x",
    "GRANT ALL ON *.* TO default",
    "BACKUP TABLE log TO File('{path}')",
    "SELECT * FROM file('{secret}', 'LineAsString')",
    "SELECT file('{secret}')",
    "SELECT `file`('{secret}')",
    "SELECT \"file\"('{secret}')",
    "SELECT FILE('{secret}')",
    "SELECT 1 WHERE 'x' IN (SELECT file('{secret}'))",
    "SELECT (SELECT file('{secret}'))",
    "WITH x AS (SELECT file('{secret}') AS y) SELECT y FROM x",
    "SELECT arrayMap(f -> file(f), ['{secret}'])",
    "EXPLAIN SELECT file('{secret}')",
    "DESCRIBE TABLE file('{secret}', 'LineAsString')",
    "DESCRIBE (SELECT file('{secret}'))",
    "DESCRIBE TABLE url('http://127.0.0.1:1/', 'LineAsString')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
    "SELECT * FROM view(SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString'))",
    "SELECT * FROM s3('http://127.0.0.1:1/a/b')",
    "SELECT * FROM remote('127.0.0.1:1', system.one)",
    "SELECT * FROM system.one AS a JOIN url('http://127.0.0.1:1/', 'LineAsString') AS b ON a.dummy = b.line",
    "SELECT * FROM system.one AS a JOIN system.one AS b ON a.dummy = file('{secret}')",
    "SELECT * FROM (SELECT * FROM system.one) AS a, url('http://127.0.0.1:1/', 'LineAsString') AS b",
    "SELECT * FROM executable('id', 'TSV', 'a String')",
    "SELECT * FROM sqlite('{path}', 'x')",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM python(engine)",
    "SELECT * FROM merge('system', '.*')",
    "SELECT * FROM dictionary('x')",
    "SELECT aiGenerate('x')",
    "SELECT 1 INTO OUTFILE '{path}'",
    "SELECT 1\ninto\noutfile '{path}'",
    "SELECT 1 INTO /* x */ OUTFILE '{path}'",
    "EXPLAIN SELECT 1 INTO OUTFILE '{path}'",
    "SHOW TABLES INTO OUTFILE '{path}'",
    "SYSTEM FLUSH LOGS",
    "SYSTEM SHUTDOWN",
    "KILL QUERY WHERE 1",
    "SET readonly = 0",
    "SET max_memory_usage = 0",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_execution_time = 100000",
    "SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 100000)",
    "USE system",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE log",
    "SELECT 1 /* ; */ ; DROP TABLE log -- ",
    "(SELECT 1); SYSTEM SHUTDOWN",
    "EXPLAIN AST SELECT 1; DROP TABLE log",
    "ATTACH TABLE x FROM '/' (a UInt8) ENGINE = MergeTree ORDER BY a",
    "EXPLAIN DROP TABLE log",
    "PARALLEL WITH SELECT 1",
    "",
    "nonsense",
    "SELECT '",
    "\0",
]


@pytest.fixture
def read_only(engine: ClickHouse, engine_directory: Path) -> EmbeddedReadOnly:
    return EmbeddedReadOnly(engine_directory)


def ask(read_only: EmbeddedReadOnly, sql: str, **parameters: str) -> bytes:
    return read_only.query(sql, default_format="TabSeparated", parameters=parameters, database=None).body


@pytest.mark.covers("O3")
@pytest.mark.parametrize("statement", HOSTILE)
def test_a_hostile_statement_is_refused(read_only: EmbeddedReadOnly, tmp_path: Path, statement: str) -> None:
    secret, path = tmp_path / "secret", tmp_path / "written"
    secret.write_text("the secret")
    before = ask(read_only, "SELECT name, total_rows FROM system.tables WHERE database = 'default' ORDER BY name")
    with pytest.raises(QueryRefused) as refused:
        ask(read_only, statement.replace("{secret}", str(secret)).replace("{path}", str(path)))
    assert refused.value.message.startswith("Code: ")
    assert refused.value.code > 0
    assert not path.exists()
    assert "the secret" not in refused.value.message
    after = ask(read_only, "SELECT name, total_rows FROM system.tables WHERE database = 'default' ORDER BY name")
    assert after == before


@pytest.mark.covers("O3")
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "SELECT 1;",
        "SELECT a.dummy FROM system.one AS a JOIN system.one AS b ON a.dummy = b.dummy AND b.dummy < 1",
        "SELECT x.number FROM numbers(2) AS x LEFT JOIN (SELECT number FROM numbers(1)) AS y ON x.number = y.number",
        "(SELECT 1) UNION ALL SELECT 2",
        "SELECT 1 INTERSECT SELECT 1",
        "WITH 1 AS x SELECT x",
        "FROM log SELECT count()",
        "SELECT count() FROM log WHERE payload LIKE '%file(%; DROP TABLE log%'",
        "SELECT 'INTO OUTFILE' AS `INTO OUTFILE`, $$a; b$$ -- INTO OUTFILE 'x'",
        "SELECT 'a\nINTO OUTFILE b'",
        "SELECT number FROM numbers(3)",
        "SELECT * FROM view(SELECT 1)",
        "SELECT arrayMap(x -> x + 1, [1, 2])",
        "EXPLAIN SELECT * FROM events",
        "EXPLAIN indexes = 1 SELECT * FROM log WHERE tenant = 'a'",
        "SHOW TABLES",
        "SHOW CREATE TABLE log",
        "SHOW COLUMNS FROM log",
        "DESCRIBE TABLE log",
        "EXISTS TABLE log",
        "SELECT name, value FROM system.settings LIMIT 1",
        "SELECT version() FORMAT JSON",
    ],
)
def test_a_reading_statement_is_answered(read_only: EmbeddedReadOnly, statement: str) -> None:
    assert isinstance(ask(read_only, statement), bytes)


@pytest.mark.covers("O3")
def test_parameters_are_values_and_never_text(read_only: EmbeddedReadOnly) -> None:
    assert ask(read_only, "SELECT {x:String}, {n:UInt8} + 1", x="'; DROP TABLE log; --", n="1") == (
        b"\\'; DROP TABLE log; --\t2\n"
    )
    with pytest.raises(QueryRefused):
        read_only.query("SELECT 1", default_format="TSV; DROP TABLE log", parameters={}, database=None)
    with pytest.raises(QueryRefused):
        read_only.query("SELECT 1", default_format="TSV", parameters={"a b": "1"}, database=None)
    with pytest.raises(QueryRefused):
        read_only.query("SELECT 1", default_format="TSV", parameters={}, database="x`; DROP")


@pytest.mark.covers("O3")
@pytest.mark.parametrize(
    ("limits", "statement", "code"),
    [
        (QueryLimits(time_s=1), "SELECT count() FROM numbers(1000000000000)", 159),
        (QueryLimits(result_max_rows=10), "SELECT * FROM numbers(11)", 396),
        (QueryLimits(result_max_bytes=1_000), "SELECT repeat('x', 1000) FROM numbers(100)", 396),
        (QueryLimits(memory_max_bytes=10_000_000), "SELECT groupArray(toString(number)) FROM numbers(10000000)", 241),
    ],
)
def test_limits_hold(
    engine: ClickHouse, engine_directory: Path, limits: QueryLimits, statement: str, code: int
) -> None:
    with pytest.raises(QueryRefused) as refused:
        ask(EmbeddedReadOnly(engine_directory, limits), statement)
    assert refused.value.code == code
