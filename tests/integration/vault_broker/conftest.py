"""The broker's world, closed in any case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.vault_broker.service import World
from tests.kafka import TestKafka
from tests.vault import RealVault


@pytest.fixture
def make_world(kafka: TestKafka, vault: RealVault, tmp_path: Path) -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(**settings: object) -> World:
        directory = tmp_path / str(len(worlds))
        directory.mkdir()
        worlds.append(World(kafka, vault, directory, **settings))
        return worlds[-1]

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()
