"""`python -m sluice_vault_broker`."""

from __future__ import annotations

import sys

from sluice_runtime.lifecycle import run_service
from sluice_vault_broker.bootstrap import SERVICE
from sluice_vault_broker.entrypoints.service import run
from sluice_vault_broker.settings import BrokerSettings

if __name__ == "__main__":
    sys.exit(run_service(SERVICE, BrokerSettings, run))
