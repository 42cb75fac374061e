"""Every line is one JSON object with its ids, and without secrets (O7)."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from sluice_runtime import logs
from sluice_runtime.logs import JsonHandler, configure_logging, log_context
from sluice_runtime.redaction import Redactor


class Lines(io.StringIO):
    """What was logged."""

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().split("\n")[:-1]]

    def one(self) -> dict[str, Any]:
        (line,) = self.all()
        return line


@pytest.fixture
def lines() -> Iterator[Lines]:
    root = logging.getLogger()
    handlers, level, hook = list(root.handlers), root.level, sys.excepthook
    stream = Lines()
    configure_logging("spawner", redactor=Redactor(["known-value-1"]), stream=stream)
    yield stream
    logging.captureWarnings(False)
    root.handlers[:], sys.excepthook = handlers, hook
    root.setLevel(level)


@pytest.mark.covers("O7")
def test_a_line_has_its_parts(lines: Lines) -> None:
    with log_context(pipeline_id="p-1", trace_id="4bf9"), log_context(agent_id="a-1"):
        logging.getLogger("sluice.x").warning("hello %s", "world", extra={"topic": "pipeline.events", "count": 3})
    line = lines.one()
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning", "service": "spawner", "message": "hello world", "logger": "sluice.x",
        "pipeline_id": "p-1", "agent_id": "a-1", "trace_id": "4bf9", "topic": "pipeline.events", "count": 3,
    }  # fmt: skip


@pytest.mark.covers("O7")
def test_ids_belong_to_their_task(lines: Lines) -> None:
    async def work(name: str, turn: asyncio.Barrier) -> None:
        with log_context(pipeline_id=name):
            await turn.wait()
            logging.getLogger().info(name)

    async def main() -> None:
        turn = asyncio.Barrier(3)
        await asyncio.gather(*(work(f"p-{number}", turn) for number in range(3)))
        logging.getLogger().info("after")

    asyncio.run(main())
    assert {(line["message"], line.get("pipeline_id")) for line in lines.all()} == {
        ("p-0", "p-0"), ("p-1", "p-1"), ("p-2", "p-2"), ("after", None),
    }  # fmt: skip


@pytest.mark.covers("O7")
def test_no_secret_comes_through_any_way(lines: Lines) -> None:
    log = logging.getLogger("x")
    log.info("password=hunter2 and known-value-1")
    log.info("at %s with %r", "postgres://u:hunter2@h/d", {"api_key": "hunter2"})
    log.info(
        "extra",
        extra={
            "password": "hunter2", "api_key": 12345678, "url": "https://u:hunter2@h", "kafka": {"password": "hunter2"},
            "list": ["known-value-1", {"client_secret": ["hunter2"]}], "token_count": 17,
        },
    )  # fmt: skip
    try:
        try:
            raise KeyError("known-value-1")
        except KeyError as inner:
            raise RuntimeError("token=hunter2hunter2") from inner
    except RuntimeError:
        log.exception("failed")
    warnings.warn("password=hunter2", stacklevel=1)
    text = lines.getvalue()
    assert "hunter2" not in text
    assert "known-value-1" not in text
    assert "12345678" not in text
    assert lines.all()[2]["token_count"] == 17
    assert lines.all()[4]["logger"] == "py.warnings"


@pytest.mark.covers("O7")
def test_an_error_has_type_message_and_stack(lines: Lines) -> None:
    try:
        raise ValueError("no such thing")
    except ValueError:
        logging.getLogger().exception("it failed")
    error = lines.one()["error"]
    assert (error["type"], error["message"]) == ("builtins.ValueError", "no such thing")
    assert "test_an_error_has_type_message_and_stack" in error["stack"]


def test_a_wrong_log_call_neither_raises_nor_shows_its_arguments() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("hunter2")

    lines = Lines()
    log = logging.Logger("x")  # alone, so that pytest's own handler does not raise
    log.addHandler(JsonHandler("spawner", Redactor(), lines))
    log.info("%d", "hunter2")
    log.info("%s", Broken())
    log.info("extra", extra={"thing": Broken()})
    assert all("a log call failed" in line["message"] for line in lines.all())
    assert len(lines.all()) == 3
    assert "hunter2" not in lines.getvalue()
    assert __file__ in lines.all()[0]["where"]


@pytest.mark.parametrize("value", ["two\nlines", "\u2028", "\x00\x1b[31m", "\ud800", "ü", '"quoted"', "\\"])
def test_whatever_is_logged_stays_on_one_line_of_json(lines: Lines, value: str) -> None:
    logging.getLogger().info("%s", value, extra={"v": value, "n": float("nan")})
    assert lines.getvalue().count("\n") == 1
    assert (lines.one()["message"], lines.one()["v"], lines.one()["n"]) == (value, value, "nan")


def test_long_texts_are_cut_after_they_are_redacted(lines: Lines) -> None:
    padding = "x" * (logs.MESSAGE_MAX_CHARACTERS - 12)
    logging.getLogger().info("%s password=hunter2hunter2", padding)
    assert "hunter" not in lines.getvalue()
    assert len(lines.one()["message"]) < logs.MESSAGE_MAX_CHARACTERS + 100


def test_extra_can_not_replace_the_standard_parts(lines: Lines) -> None:
    logging.getLogger().info("x", extra={"service": "forged", "time": "never", "level": "none"})
    assert (lines.one()["service"], lines.one()["level"]) == ("spawner", "info")


def test_servers_and_libraries_log_the_same_way(lines: Lines) -> None:
    logging.getLogger("uvicorn.error").warning("w")
    logging.getLogger("uvicorn.access").info("GET /livez")
    assert lines.one()["logger"] == "uvicorn.error"


def test_lines_of_threads_do_not_mix(lines: Lines) -> None:
    def write() -> None:
        for _ in range(50):
            logging.getLogger().info("y" * 500)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines.all()) == 200


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure_logging("spawner", "LOUD", stream=io.StringIO())


@pytest.mark.covers("O7")
def test_an_error_that_nobody_caught_is_one_line_without_secrets() -> None:
    code = "from sluice_runtime.logs import configure_logging as c; c('spawner'); raise OSError('password=hunter2')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    line = json.loads(ended.stderr)
    assert (line["level"], line["error"]["message"]) == ("critical", "password=[redacted:password]")
