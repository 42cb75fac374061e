"""`python -m sluice_vault_broker [audit]`."""

from __future__ import annotations

import argparse
import sys

from sluice_runtime.lifecycle import run_service


def main() -> int:
    """Runs the broker, or with `audit` the follower of Vault's audit file, which loads nothing of the broker."""
    parser = argparse.ArgumentParser(prog="sluice_vault_broker", description="Owns the life of credentials.")
    parser.add_argument(
        "process",
        nargs="?",
        choices=("broker", "audit"),
        default="broker",
        help="broker: mints, renews, revokes (the default); audit: tells each use that Vault's audit file shows",
    )
    if parser.parse_args().process == "audit":
        from sluice_vault_broker.audit import process
        from sluice_vault_broker.audit.settings import AuditSettings

        return run_service(process.SERVICE, AuditSettings, process.run)
    from sluice_vault_broker.bootstrap import SERVICE
    from sluice_vault_broker.entrypoints.service import run
    from sluice_vault_broker.settings import BrokerSettings

    return run_service(SERVICE, BrokerSettings, run)


if __name__ == "__main__":
    sys.exit(main())
