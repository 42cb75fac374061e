"""When a command counts as decided."""

from __future__ import annotations

import pytest

from sluice_observability.domain import effects
from sluice_observability.domain.effects import Command, Effects, Position


def command(offset: int, partition: int = 0) -> Command:
    return Command(f"c{partition}-{offset}", "pipeline.cancel", "p", partition, offset)


@pytest.mark.covers("U1")
def test_an_effect_decides_its_command_and_all_before_it_in_the_partition() -> None:
    seen = Effects()
    for offset in range(5):
        seen.command_seen(command(offset))
        seen.command_seen(command(offset, partition=1))
    seen.effect_seen("c0-3")
    assert [seen.decided(0, offset) for offset in range(5)] == [True, True, True, True, False]
    assert not seen.decided(1, 0)
    assert seen.waiting(0, 4) == command(4)
    assert seen.waiting(0, 3) is None


def test_the_effect_may_be_seen_before_the_command() -> None:
    seen = Effects()
    seen.effect_seen("c0-3")
    assert not seen.decided(0, 3)
    seen.command_seen(command(3))
    assert seen.decided(0, 3)


def test_a_late_effect_takes_nothing_back() -> None:
    seen = Effects()
    for offset in (1, 2):
        seen.command_seen(command(offset))
    seen.effect_seen("c0-2")
    seen.effect_seen("c0-1")
    assert seen.decided(0, 2)


@pytest.mark.covers("U1")
def test_an_effect_of_a_command_does_not_decide_what_stands_before_its_repetition() -> None:
    seen = Effects()
    again = Command("c0-1", "pipeline.cancel", "p", 0, 5)
    seen.command_seen(command(1))
    seen.effect_seen("c0-1")
    seen.command_seen(command(3))
    seen.command_seen(again)
    seen.effect_seen("c0-1")  # the first command's second event, for all that is known
    assert [seen.decided(0, offset) for offset in (1, 3, 5)] == [True, False, False]
    assert seen.waiting(0, 5) == again
    seen.effect_seen("c0-1", is_all=True)
    assert seen.decided(0, 5)


@pytest.mark.covers("U1")
def test_a_repetition_is_not_decided_by_an_effect_that_came_before_the_command() -> None:
    seen = Effects()
    seen.effect_seen("c0-1")
    seen.command_seen(command(1))
    seen.command_seen(Command("c0-1", "pipeline.cancel", "p", 0, 5))
    assert [seen.decided(0, offset) for offset in (1, 5)] == [True, False]


def test_memory_is_bounded() -> None:
    seen = Effects()
    for offset in range(effects.REMEMBERED_MAX_COUNT + 10):
        seen.command_seen(command(offset))
        seen.effect_seen(f"other-{offset}")
    assert seen.waiting(0, 0) is None
    assert not seen.answered("other-0")
    assert seen.waiting(0, effects.REMEMBERED_MAX_COUNT + 9) is not None


@pytest.mark.parametrize("text", ["pipeline.commands/3/17", "agent.events.a/b/0/1"])
def test_a_position_is_written_as_it_is_read(text: str) -> None:
    assert str(Position.parse(text)) == text


@pytest.mark.parametrize("text", ["", "x", "x/1", "/1/2", "x/-1/2", "x/1/٣", "x/1/" + "9" * 30, "x/1/2/"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no position"):
        Position.parse(text)
