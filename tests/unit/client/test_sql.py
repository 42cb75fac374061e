"""What the SQL client makes of ClickHouse's answers."""

from __future__ import annotations

import json

import httpx
import pytest

from sluice_client.sql import OtherFormat, Sql

ANSWER = {"meta": [{"name": "n", "type": "UInt8"}], "data": [[1], [2]]}


def answering(body: str) -> Sql:
    return Sql("http://log", transport=httpx.MockTransport(lambda _: httpx.Response(200, text=body)))


@pytest.mark.covers("U2")
def test_an_answer_is_a_table() -> None:
    found = answering(json.dumps(ANSWER)).table("SELECT 1")
    assert (found.columns, found.rows) == (["n"], [[1], [2]])
    assert answering(json.dumps(ANSWER)).rows("SELECT 1") == [{"n": 1}, {"n": 2}]


@pytest.mark.covers("U2")
@pytest.mark.parametrize(
    "body",
    [
        "",
        "1\n",
        '1,"x"\n',
        '{"n":1}\n{"n":2}\n',
        "[1]",
        "17",
        "null",
        json.dumps({**ANSWER, "data": [{"n": 1}]}),
        "\x00\x01",
    ],
)
def test_the_answer_in_a_format_of_the_query_s_own_is_left_as_it_is(body: str) -> None:
    with pytest.raises(OtherFormat) as other:
        answering(body).rows("SELECT 1 FORMAT …")
    assert other.value.body == body.encode()
