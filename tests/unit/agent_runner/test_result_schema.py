"""Output schemas are written by strangers: what they may say, and how long they may keep a runner."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sluice_agent_runner.domain.actions import FinishTurn
from sluice_agent_runner.domain.result_schema import InvalidOutputSchema, compile_schema
from tests.unit.agent_runner.builders import Driver, agent_run, call, failed, finish, reply, task, until
from tests.unit.agent_runner.runner_world import World, in_world

EXPONENTIAL = {
    "$defs": {f"n{n}": {"allOf": [{"$ref": f"#/$defs/n{n + 1}"}] * 2} for n in range(40)} | {"n40": {"type": "null"}},
    "$ref": "#/$defs/n0",
}
PRODUCT = {"items": {"anyOf": [*({"minimum": n} for n in range(1, 500)), {"const": 0}]}}


@pytest.mark.parametrize(
    ("schema", "value", "fault"),
    [
        ({"uniqueItems": True}, [{"a": 1}, {"b": 1}, {"a": 1.0}], "$: items 0 and 2 are equal"),
        ({"uniqueItems": True}, [1, True, "1", [1], {"1": 1}, None], None),
        ({"uniqueItems": False}, [1, 1], None),
        ({"enum": [{"a": [1, 2]}, True]}, {"a": [1.0, 2]}, None),
        ({"enum": [1, "true"]}, True, "$: true is not one of"),
        ({"const": {"b": 1, "a": 2}}, {"a": 2, "b": 1}, None),
        ({"items": {"const": 0}}, [0, False], "$[1]: 0 was expected"),
        ({"properties": {"a": {}}, "additionalProperties": False}, {"a": 1, "b": 2}, "$: there is no property 'b'"),
        ({"patternProperties": {"^a": {}}, "additionalProperties": {"type": "string"}}, {"ab": 1, "b": 2}, "$.b: 2 is"),
        ({"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}, {"a" * 60 + "!": 1}, "$: there is no"),
        ({"properties": {"n": {"$ref": "#"}}, "$schema": "https://json-schema.org/draft/2020-12/schema"}, {}, None),
    ],
)
@pytest.mark.covers("P3")
def test_what_a_schema_says_of_a_value(schema: dict[str, Any], value: Any, fault: str | None) -> None:
    faults = compile_schema(schema).faults(value)
    assert faults[0].startswith(fault) if fault else faults == []


@pytest.mark.covers("P3")
def test_many_unique_objects_are_compared_in_linear_time() -> None:
    """Each with each would be ten billion comparisons: the test's own timeout would end it."""
    assert compile_schema({"uniqueItems": True}).faults([{"a": n} for n in range(100_000)]) == []


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (EXPONENTIAL, None),
        (PRODUCT, [0] * 100_000),
        ({"properties": {"x": {**EXPONENTIAL, "$schema": "http://json-schema.org/draft-07/schema#"}}}, {"x": None}),
        ({"anyOf": [{"type": "string"}] * 1_000}, list(range(60_000))),
        ({"items": {"properties": {f"p{n}": {} for n in range(2_000)}}}, [{}] * 10_000),
        ({"allOf": [{"pattern": "(x{0,100}){0,8}y"}] * 100}, "xz" * 100_000),
    ],
    ids=["exponential", "anyOf by items", "a draft of its own", "long messages", "names by items", "pattern by text"],
)
@pytest.mark.covers("P3", "P13")
def test_a_validation_without_end_is_given_up(schema: dict[str, Any], value: Any) -> None:
    if schema.get("properties"):
        schema = {**schema, "$defs": EXPONENTIAL["$defs"]}
    with pytest.raises(InvalidOutputSchema, match="takes more than 500000 steps"):
        compile_schema(schema).faults(value)


@pytest.mark.covers("P3")
def test_the_largest_lawful_results_are_within_the_limit() -> None:
    numbers = compile_schema({"type": "array", "items": {"type": "integer"}})
    assert numbers.faults([0] * 131_000) == []
    records = compile_schema(
        {
            "type": "array",
            "uniqueItems": True,
            "items": {
                "type": "object",
                "required": ["id", "service"],
                "additionalProperties": False,
                "properties": {
                    "id": {"type": "integer", "minimum": 0},
                    "service": {"enum": ["orders", "payments"]},
                    "text": {"type": "string", "pattern": "^[a-z ]+$", "maxLength": 100},
                },
            },
        }
    )
    assert records.faults([{"id": n, "service": "orders", "text": "it failed"} for n in range(5_000)]) == []


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": [{"a": n} for n in range(5_000)]}, "is invalid at \\$.type"),
        ({"properties": {"a": {"unevaluatedProperties": False}}}, "unevaluatedProperties .* is not supported"),
        ({"pattern": "(?=x)"}, "not a regular expression of RE2"),
        ({"patternProperties": {"(a)\\1": {}}}, "not a regular expression of RE2"),
    ],
)
@pytest.mark.covers("P3")
def test_a_schema_that_can_not_be_used_is_refused_before_the_first_turn(schema: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidOutputSchema, match=why):
        compile_schema(schema)
    assert failed(Driver(agent_run(task(output_schema=schema)))) == "invalid_output_schema"


@pytest.mark.covers("W10", "P3")
def test_heartbeats_go_on_while_a_result_is_held_against_its_schema() -> None:
    """The machine waits, inside its own call, for a heartbeat: on the event loop it would wait in vain."""
    began, beaten = threading.Event(), threading.Event()

    def slow(text: str) -> str:
        if text == "SLOW":
            began.set()
            assert beaten.wait(20)
        return text

    async def scenario(world: World) -> None:
        await world.task("a", task=task(output_schema={"type": "object"}))
        await world.models.says("a", reply(call("finish", summary="done", result={}), text="SLOW"))
        await until(began.is_set)
        await world.runner.heartbeat()
        beaten.set()
        await until(lambda: "agent.succeeded" in [event.type for event in world.log.events])

    in_world(scenario, redact=slow)


def test_a_result_that_takes_too_long_fails_the_task_after_a_durable_turn() -> None:
    driver = Driver(agent_run(task(output_schema=PRODUCT)))
    driver.says(finish(result=[0] * 20_000))
    assert isinstance(driver.finished[0], FinishTurn)
    assert failed(driver) == "invalid_output_schema"
    assert failed(driver.resumed()) == "invalid_output_schema"
