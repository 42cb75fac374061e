"""`python -m sluice_spawner`."""

from __future__ import annotations

import sys

from sluice_runtime.lifecycle import run_service
from sluice_spawner.bootstrap import SERVICE
from sluice_spawner.entrypoints.service import run
from sluice_spawner.settings import SpawnerSettings

if __name__ == "__main__":
    sys.exit(run_service(SERVICE, SpawnerSettings, run))
