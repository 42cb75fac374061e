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
from sluice_localstack.errors import NotReady, SettingInvalid, StartFailed
from sluice_localstack.files import DirectoryLock, private_directory, write_private
from sluice_localstack.processes import Child, Records
from sluice_localstack.progress import OnProgress, Step, silent
from sluice_localstack.vault.build import ensure_program, given_binary
from sluice_localstack.vault.checks import server_checks
from sluice_localstack.vault.connection import VaultAddress, VaultClient, VaultLogin
from sluice_localstack.vault.keys import KeyFile, Keys

START_TIMEOUT_S = 60.0
"""Measured 0.2 s, and 2 s the first time; a machine that swaps may take longer."""
STOP_GRACE_S = 15.0
"""Measured 0.7 to 1 s; after it SIGKILL, from which the storage recovers."""
START_TRIES = 3
"""Another program may take a port between our look and the server's."""
POLL_S = 0.02
AUDIT_FILE = "audit.log"
"""Relative to the data directory, in which the server runs: so a copied directory writes its own."""
AUDIT_MAX_BYTES = 64 * 1024 * 1024
"""A request takes about 2 kB in it. One older file is kept: Vault refuses all requests when the disk is full."""
LOG_MAX_BYTES = 64 * 1024 * 1024


class VaultServer:
    """A Vault with a data directory.

    Guarantees: `start` returns when it is unsealed and answers. What it has stored outlives `stop`, `kill` and the
    supervisor's death. The ports stay the same over `kill` and `restart`, and over a new `start` unless another program
    has taken them. One process at a time uses a data directory. The unseal key and the root token stand in one file of
    mode 0600 (`keys.json`), which is on the disk before either is used, and never in an environment, a log or a command
    line.

    Usable as a context manager.

    Args:
        data_directory: Made if needed, 0700; everything is kept below it.
        logs_directory: Default `<data_directory>/logs`.
        die_with_supervisor: Have the kernel end it when this process dies in any way (Linux).
        on_progress: Is told about the build and the start.
        environment: Where the settings are read; default `os.environ`.
    """

    name = "vault"

    def __init__(
        self,
        data_directory: Path,
        *,
        logs_directory: Path | None = None,
        die_with_supervisor: bool = True,
        on_progress: OnProgress = silent,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = Path(data_directory).absolute()
        self.logs_directory = logs_directory or self.directory / "logs"
        self.keys = KeyFile(self.directory)
        self._environment = dict(os.environ if environment is None else environment)
        self._on_progress = on_progress
        self._death_signal = signal.SIGTERM if die_with_supervisor else None
        self._lock = DirectoryLock(self.directory)
        self._child: Child | None = None
        self._ports: dict[str, int] = {}

    def __enter__(self) -> VaultServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- how clients reach it

    @property
    def address(self) -> VaultAddress:
        """Of this object's server, or of the one that another process runs in the directory.

        Raises:
            SettingInvalid: None was ever started here.
        """
        port = (self._ports or ports.stored_ports(self.directory)).get("api")
        if port is None:
            raise SettingInvalid(f"Vault in {self.directory} has no port yet; call start() first")
        return VaultAddress(f"http://{ports.LOOPBACK}:{port}")

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

    @property
    def pid(self) -> int | None:
        """The pid while it runs, else None."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Build the program if needed, start it, initialise it once, unseal it, and wait until it answers.

        Ends first what an earlier supervisor of this directory has left running. Without effect while it runs.

        Raises:
            DirectoryInUse: Another process runs a Vault here.
            DownloadFailed: The program could not be built.
            SettingInvalid: The key is lost.
            StartFailed: It ended while it started, or was not ready in time (`NotReady`). Nothing runs then.
        """
        if self.pid is not None:
            return
        private_directory(self.directory)
        if not self._lock.held:
            self._lock.acquire()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it in good order (SIGKILL after 15 s) and free the directory. Without effect if it is not up."""
        try:
            if self._child is not None:
                self._child.stop(STOP_GRACE_S)
        finally:
            self._lock.release()

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the process a signal; after SIGKILL it has ended when this returns. The directory stays ours."""
        if self._child is not None:
            self._child.signal(number)

    def restart(self) -> None:
        """Start it again after `kill` (or in place of what runs) on the same ports, and unseal it.

        Raises:
            StartFailed: As for `start`. Call `start` if another program may have taken the ports.
        """
        if self._child is None or not self._lock.held:
            raise SettingInvalid(f"Vault in {self.directory} was not started; call start()")
        self._child.stop(STOP_GRACE_S)
        with Step("start Vault", self._on_progress):
            self._launch()

    def seal(self) -> None:
        """Seal it: it answers nobody. It stays so until `unseal` or a new start; whoever seals has a reason."""
        self.admin().seal()

    def unseal(self) -> None:
        """Unseal it, and wait until it answers.

        Raises:
            NotReady: It was not ready in time.
        """
        self._open(self.keys.needed(), time.monotonic() + START_TIMEOUT_S)

    def ready(self) -> bool:
        """Whether it is unsealed and answers."""
        return self.pid is not None and VaultClient(VaultLogin(self.address)).health() == "active"

    def bound_audit(self) -> None:
        """Begin a new audit file where the present one is too large; the one before it is replaced."""
        if self.audit_file.exists() and self.audit_file.stat().st_size > AUDIT_MAX_BYTES:
            self.audit_file.replace(self.audit_file.with_name(f"{AUDIT_FILE}.1"))
            self.kill(signal.SIGHUP)  # it goes on writing into the old file until it has opened the new one

    def doctor(self) -> list[Check]:
        """The program, file modes, leftovers, ports, and whether it answers where one runs."""
        return server_checks(self.directory, self._environment, self.supervisor_pid)

    @property
    def supervisor_pid(self) -> int | None:
        """The pid of the process that runs a Vault in this directory, ours or another; None if none does."""
        return self._lock.holder()

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
        }
        write_private(self._configuration, json.dumps(configuration, indent=1))

    def _launch_on_free_ports(self) -> None:
        for attempt in range(1, START_TRIES + 1):
            try:
                with Step("start Vault", self._on_progress):
                    self._launch()
                return
            except StartFailed:
                if attempt == START_TRIES or all(ports.is_free(port) for port in self._ports.values()):
                    raise
            self._choose_ports()

    def _launch(self) -> None:
        assert self._child is not None
        self._child.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        client = VaultClient(VaultLogin(self.address))
        while (health := client.health()) == "away":
            self._still_starting(deadline)
        if health == "uninitialised":
            self._initialise(client)
        self._open(self.keys.needed(), deadline)

    def _initialise(self, client: VaultClient) -> None:
        if self.keys.read() is not None:
            raise SettingInvalid(
                f"{self.directory} has keys, but its storage is empty; restore the storage from a backup, or start "
                "with a new data directory"
            )
        self.keys.begin()
        self.keys.write(Keys(*client.initialise()))

    def _open(self, keys: Keys, deadline: float) -> None:
        client = VaultClient(VaultLogin(self.address))
        while (health := client.health()) != "active":
            if health == "sealed":
                client.unseal(keys.unseal_key)
            self._still_starting(deadline)

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
        time.sleep(POLL_S)
