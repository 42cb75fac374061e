"""A real Vault of one's own: raft storage, one process on loopback, initialised and unsealed by itself."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from sluice_localstack import ports
from sluice_localstack.cache import cache_directory
from sluice_localstack.component import Check
from sluice_localstack.errors import NotReady, StartFailed
from sluice_localstack.files import private_directory, write_private
from sluice_localstack.processes import Child, Records
from sluice_localstack.progress import OnProgress, silent
from sluice_localstack.server import LocalServer
from sluice_localstack.vault.build import ensure_program, given_binary
from sluice_localstack.vault.checks import server_checks
from sluice_localstack.vault.connection import VaultAddress, VaultClient, VaultLogin
from sluice_localstack.vault.keys import KeyFile
from sluice_localstack.vault.opening import open_vault

START_TIMEOUT_S = 60.0
"""Measured 0.2 s, and 2 s the first time; a machine that swaps may take longer."""
AUDIT_FILE = "audit.log"
"""Relative to the data directory, in which the server runs: so a copied directory writes its own."""
AUDIT_MAX_BYTES = 64 * 1024 * 1024
"""A request takes about 2 kB in it. One older file is kept: Vault refuses all requests when the disk is full."""
LOG_MAX_BYTES = 64 * 1024 * 1024


class VaultServer(LocalServer):
    """A Vault with a data directory.

    Guarantees, beside those of `LocalServer`: `start` initialises it once, and returns when it is unsealed and answers.
    What it has stored outlives `stop`, `kill` and the supervisor's death. The unseal key and the root token stand in
    one file of mode 0600 (`keys.json`), which is on the disk before either is used, and never in an environment, a log
    or a command line.

    Args:
        data_directory: See `LocalServer`, as the others that are not named here.
        environment: Where the settings are read; default `os.environ`.
    """

    name = "vault"
    title = "Vault"

    def __init__(
        self,
        data_directory: Path,
        *,
        logs_directory: Path | None = None,
        die_with_supervisor: bool = True,
        on_progress: OnProgress = silent,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            data_directory,
            logs_directory=logs_directory,
            die_with_supervisor=die_with_supervisor,
            on_progress=on_progress,
        )
        self.keys = KeyFile(self.directory)
        self._environment = dict(os.environ if environment is None else environment)

    # -- how clients reach it

    @property
    def address(self) -> VaultAddress:
        """Of this object's server, or of the one that another process runs in the directory.

        Raises:
            SettingInvalid: None was ever started here.
        """
        return VaultAddress(f"http://{ports.LOOPBACK}:{self._port('api')}")

    def admin(self) -> VaultClient:
        """A client with the root token.

        Raises:
            SettingInvalid: It was never started here.
        """
        return VaultClient(VaultLogin(self.address, self.keys.needed().root_token))

    @property
    def audit_file(self) -> Path:
        """Where every request and answer is written, secrets as HMACs. Older ones: the same name with `.1`."""
        return self.directory / AUDIT_FILE

    @property
    def audit_path(self) -> str:
        """The audit device's `file_path`, as Vault is told it."""
        return AUDIT_FILE

    @property
    def log_file(self) -> Path:
        """What the server writes about itself."""
        return self.logs_directory / "vault.log"

    # -- its life

    def seal(self) -> None:
        """Seal it: it answers nobody. It stays so until `unseal` or a new start; whoever seals has a reason."""
        self.admin().seal()

    def unseal(self) -> None:
        """Unseal it, and wait until it answers.

        Raises:
            NotReady: It was not ready in time.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        open_vault(self.address, self.keys, lambda: self._still_starting(deadline))

    def ready(self) -> bool:
        """Whether it is unsealed and answers."""
        return self.pid is not None and VaultClient(VaultLogin(self.address)).health() == "active"

    def bound_audit(self, max_bytes: int = AUDIT_MAX_BYTES) -> None:
        """Begin a new audit file where the present one is too large; the one before it is replaced."""
        if self.audit_file.exists() and self.audit_file.stat().st_size > max_bytes:
            self.audit_file.replace(self.audit_file.with_name(f"{AUDIT_FILE}.1"))
            self.kill(signal.SIGHUP)  # it goes on writing into the old file until it has opened the new one

    def doctor(self) -> list[Check]:
        """The program, file modes, leftovers, ports, and whether it answers where one runs."""
        return server_checks(self.directory, self._environment, self.supervisor_pid)

    # -- steps of the start

    def _start(self) -> None:
        program = given_binary(self._environment) or ensure_program(
            cache_directory(self._environment), self._on_progress
        )
        Records(self.directory).end_leftovers()
        private_directory(self.logs_directory)
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_MAX_BYTES:
            self.log_file.replace(self.log_file.with_name(f"{self.log_file.name}.1"))
        self.bound_audit()
        self.keys.drop_unfinished(self._storage)
        private_directory(self._storage)
        self._choose_ports()
        self._child = Child(
            self.name,
            [program, "server", f"-config={self._configuration}"],
            environment={},
            log_file=self.log_file,
            records=Records(self.directory),
            death_signal=self._death_signal,
        )
        self._launch_on_free_ports()

    @property
    def _storage(self) -> Path:
        return self.directory / "raft"

    @property
    def _configuration(self) -> Path:
        return self.directory / "vault.json"

    def _choose_ports(self) -> None:
        """Write the configuration. Paths in it are relative, so that the directory may be moved."""
        self._ports = ports.keep_ports(self.directory, ("api", "cluster"))
        api, cluster = (f"{ports.LOOPBACK}:{self._ports[name]}" for name in ("api", "cluster"))
        # Without the multiplier the first election waits 5 to 10 s.
        storage = {"path": self._storage.name, "node_id": "local", "performance_multiplier": "1"}
        configuration = {
            "storage": {"raft": storage},
            "listener": {"tcp": {"address": api, "tls_disable": True}},
            "api_addr": f"http://{api}",
            "cluster_addr": f"https://{cluster}",
            "disable_mlock": True,
            "ui": False,
            "log_level": "info",
            # OpenBao makes no audit device by its API without it; Vault does, and passes over what it does not know.
            "unsafe_allow_api_audit_creation": True,
        }
        write_private(self._configuration, json.dumps(configuration, indent=1))

    def _launch(self) -> None:
        assert self._child is not None
        self._child.start()
        self.unseal()

    def _still_starting(self, deadline: float) -> None:
        assert self._child is not None
        if self._child.pid is None:
            raise StartFailed(
                f"Vault ended with code {self._child.exit_code} while it started; read {self.log_file}:\n"
                f"{self._child.log_tail()}"
            )
        if time.monotonic() > deadline:
            raise NotReady(
                f"Vault was not ready within {START_TIMEOUT_S:.0f} s; read {self.log_file}:\n{self._child.log_tail()}"
            )
