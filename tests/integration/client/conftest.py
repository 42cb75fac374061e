"""One stack for all tests of this folder that do not end it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.client.sluice import Sluice


@pytest.fixture(scope="package")
def sluice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sluice]:
    with Sluice(tmp_path_factory.mktemp("client") / "stack").running() as running:
        yield running
