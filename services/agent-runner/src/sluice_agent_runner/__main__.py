"""`python -m sluice_agent_runner`: runs the service until SIGTERM or SIGINT."""

from __future__ import annotations

import sys

from sluice_agent_runner.entrypoints.service import SERVICE, main
from sluice_agent_runner.settings import RunnerSettings
from sluice_runtime.lifecycle import run_service

if __name__ == "__main__":
    sys.exit(run_service(SERVICE, RunnerSettings, main))
