"""By what names HTTP may be called."""

from __future__ import annotations

from typing import Any

import pytest

from sluice_observability.settings import StoreSettings


def hosts(**given: Any) -> tuple[str, ...] | None:
    return StoreSettings(kafka_bootstrap_servers="127.0.0.1:9092", **given).hosts()


@pytest.mark.covers("O3")
def test_names_are_those_of_the_settings_and_any_only_where_strangers_are_kept_away_otherwise() -> None:
    assert hosts() == ("127.0.0.1",)
    assert hosts(http_hosts="Sluice.example, api") == ("127.0.0.1", "sluice.example", "api")
    assert hosts(allow_remote=True, http_host="0.0.0.0", http_hosts="api") == ("0.0.0.0", "api")
    assert hosts(allow_remote=True, http_host="0.0.0.0") is None
