"""Where downloads are kept: one directory for all stacks of a user."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sluice_localstack.files import private_directory


def cache_path(environment: Mapping[str, str] | None = None) -> Path:
    """Where the directory for downloads is, or will be: setting `SLUICE_CACHE_DIR`, else `~/.cache/sluice`."""
    given = (os.environ if environment is None else environment).get("SLUICE_CACHE_DIR")
    return Path(given).expanduser().absolute() if given else Path.home() / ".cache" / "sluice"


def cache_directory(environment: Mapping[str, str] | None = None) -> Path:
    """The directory for downloads, made if needed.

    Stacks share it; concurrent first starts are safe. It may be deleted while no stack runs.

    Raises:
        SettingInvalid: It cannot be made.
    """
    return private_directory(cache_path(environment))
