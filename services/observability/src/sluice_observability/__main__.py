"""`python -m sluice_observability store|api`."""

from __future__ import annotations

import argparse
import sys

from sluice_observability.settings import ApiSettings, StoreSettings
from sluice_runtime.lifecycle import run_service


def main() -> int:
    """Runs the process that the command line names, and loads nothing of the other: the engine alone is 100 MB."""
    parser = argparse.ArgumentParser(prog="sluice_observability", description="Remembers and shows.")
    parser.add_argument("process", choices=("store", "api"), help="store: sink and SQL; api: HTTP and the live stream")
    if parser.parse_args().process == "store":
        from sluice_observability.entrypoints import store

        return run_service(store.SERVICE, StoreSettings, store.run)
    from sluice_observability.entrypoints import api

    return run_service(api.SERVICE, ApiSettings, api.run)


if __name__ == "__main__":
    sys.exit(main())
