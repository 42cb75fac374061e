"""`python -m sluice_observability store|api|monitor`."""

from __future__ import annotations

import argparse
import sys

from sluice_observability.settings import ApiSettings, MonitorSettings, StoreSettings
from sluice_runtime.lifecycle import run_service


def main() -> int:
    """Runs the process that the command line names, and loads nothing of the other: the engine alone is 100 MB."""
    parser = argparse.ArgumentParser(prog="sluice_observability", description="Remembers and shows.")
    parser.add_argument(
        "process",
        choices=("store", "api", "monitor"),
        help="store: sink and SQL; api: HTTP and the live stream; monitor: error budgets",
    )
    process = parser.parse_args().process
    if process == "store":
        from sluice_observability.entrypoints import store

        return run_service(store.SERVICE, StoreSettings, store.run)
    if process == "monitor":
        from sluice_observability.entrypoints import monitor

        return run_service(monitor.SERVICE, MonitorSettings, monitor.run)
    from sluice_observability.entrypoints import api

    return run_service(api.SERVICE, ApiSettings, api.run)


if __name__ == "__main__":
    sys.exit(main())
