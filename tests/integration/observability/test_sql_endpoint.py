"""The store's SQL endpoint with the tools that analysts have."""

from __future__ import annotations

import concurrent.futures
import subprocess

import clickhouse_connect
import httpx
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.integration.observability.conftest import StartService
from tests.integration.observability.support import Service, Writer, wait_for
from tests.unit.observability.events import whole_life


@pytest.fixture
def filled(store: Service, writer: Writer) -> Service:
    writer.tell(*whole_life("p1"))
    wait_for("rows", lambda: store.count("SELECT count() FROM log") == 11)
    return store


@pytest.mark.covers("O3")
def test_clickhouse_connect_reads_and_can_not_write(filled: Service) -> None:
    client = clickhouse_connect.get_client(host="127.0.0.1", port=filled.port)
    try:
        rows = client.query("SELECT type, count() FROM events GROUP BY type ORDER BY type LIMIT 2").result_rows
        assert rows == [("agent.created", 1), ("agent.state_changed", 2)]
        query = "SELECT state, spawned_at FROM pipelines WHERE pipeline_id = {p:String}"
        [(state, spawned_at)] = client.query(query, parameters={"p": "p1"}).result_rows
        assert state == "COMPLETED"
        assert int(spawned_at.timestamp()) > 0
        assert client.query_arrow("SELECT agent_id, turn FROM turns").num_rows == 2
        assert client.command("SELECT max(turn) FROM turns") == 2
        with pytest.raises(DatabaseError, match="READONLY"):
            client.command("DROP TABLE log")
        with pytest.raises(DatabaseError):
            client.insert("gaps", [["x"]], column_names=["topic"])
    finally:
        client.close()


@pytest.mark.covers("O3")
def test_curl_reads(filled: Service) -> None:
    def curl(*arguments: str) -> str:
        return subprocess.run(["curl", "-sS", *arguments], check=True, capture_output=True, text=True).stdout

    assert curl(f"{filled.url}/ping") == "Ok.\n"
    assert curl(filled.url) == "Ok.\n"
    assert curl(f"{filled.url}/?query=SELECT%201") == "1\n"
    assert curl(f"{filled.url}/?query=SELECT%20state", "--data-binary", "FROM pipelines FORMAT CSV") == '"COMPLETED"\n'
    assert curl(f"{filled.url}/?default_format=JSONEachRow", "-d", "SELECT count() AS n FROM log") == '{"n":11}\n'
    assert "READONLY" in curl(filled.url, "-d", "SYSTEM SHUTDOWN")


@pytest.mark.covers("O3")
def test_answers_have_the_form_of_clickhouse(filled: Service) -> None:
    with httpx.Client(base_url=filled.url) as client:
        good = client.post("/", params={"query_id": "q1"}, content="SELECT 1 AS x FORMAT JSON")
        assert good.json()["data"] == [{"x": 1}]
        assert good.headers["X-ClickHouse-Query-Id"] == "q1"
        assert good.headers["X-ClickHouse-Format"] == "JSON"
        assert good.headers["content-type"].startswith("application/json")
        wrong = client.post("/", content="SELEC 1")
        assert (wrong.status_code, wrong.headers["X-ClickHouse-Exception-Code"]) == (400, "62")
        assert wrong.text.startswith("Code: 62. DB::Exception:")
        assert client.post("/", content="SELECT * FROM nothing").status_code == 404
        assert client.post("/", content="DROP TABLE log").status_code == 403
        assert client.post("/", content=b"SELECT '\xff'").status_code == 400
        assert client.post("/", content=b"SELECT 1 --" + b"x" * 2_000_000).status_code == 413
        assert client.put("/", content="SELECT 1").status_code == 405


@pytest.mark.covers("O3", "D1")
def test_heavy_queries_hold_neither_the_probes_nor_the_sink(start: StartService, writer: Writer) -> None:
    store = start("store", SLUICE_QUERY_TIME_MAX_S="60")
    store.ready()
    heavy = "SELECT count() FROM numbers(1000000000000)"
    with concurrent.futures.ThreadPoolExecutor(40) as threads, httpx.Client(base_url=store.url, timeout=120) as client:
        asked = [threads.submit(client.post, "/", content=heavy) for _ in range(40)]
        try:
            done, _ = concurrent.futures.wait(asked, timeout=60, return_when=concurrent.futures.FIRST_COMPLETED)
            assert {one.result().status_code for one in done} == {503}  # beyond four that run and 32 that wait
            assert httpx.get(f"{store.url}/livez").status_code == 200
            rows = f'sluice_rows_written_total{{table="log"}} {11 * 1.0}'
            writer.tell(*whole_life("p1"))
            wait_for("the rows in the metrics", lambda: rows in httpx.get(f"{store.url}/metrics").text)
        finally:
            store.kill()
            concurrent.futures.wait(asked)
