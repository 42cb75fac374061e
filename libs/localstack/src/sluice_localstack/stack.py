"""The whole stack in one object: Kafka, Vault, other components, the services."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sluice_localstack import doctor, ports
from sluice_localstack.component import Check, Component
from sluice_localstack.errors import SettingInvalid
from sluice_localstack.files import DirectoryLock, private_directory
from sluice_localstack.kafka.broker import KafkaBroker
from sluice_localstack.kafka.external import ExternalKafka, external_credentials, external_login
from sluice_localstack.processes import Records
from sluice_localstack.progress import OnProgress, Step, silent
from sluice_localstack.revival import Revival
from sluice_localstack.services import RESTART_WAIT_MAX_S, Supervisor
from sluice_localstack.signals import OrderlyTermination, undisturbed
from sluice_localstack.tables import AclRule, Principal, ServiceSpec, TopicSpec
from sluice_localstack.vault.credentials import VaultCredentials
from sluice_localstack.vault.external import ExternalVault, external_vault, given_audit_file, given_credentials
from sluice_localstack.vault.provision import Provisioning
from sluice_localstack.vault.server import VaultServer
from sluice_localstack.vault.table import VaultTable

WAIT_S = 0.5


class LocalStack:
    """Kafka with its topics, users and ACLs, Vault, further components, and the services, on this machine.

    Guarantees:
        After `start`: Kafka takes requests; it has every topic of the table with its partitions and configurations
        (topics that are not in the table are kept), every principal, and exactly the table's ACLs; Vault is unsealed
        and has what its table says; every component and service is ready. After `stop`, and after a `start` that
        raised, no process of the stack is left. Data, ports and passwords outlive stops, kills and the supervisor's
        death; what a killed supervisor left running is ended by the next start. One stack at a time runs in a data
        directory; others run beside it in theirs.

    As a context manager it starts and stops; SIGTERM and SIGHUP then raise SystemExit in the main thread, as Ctrl-C
    raises KeyboardInterrupt, unless the program has handlers of its own.

    Args:
        data_directory: Made if needed, 0700: `kafka/`, `vault/`, `credentials/`, `logs/`.
        topics: What to create. Partitions of an existing topic are verified, its configurations updated.
        principals: The users; each has a credentials file.
        acls: The whole table: what Kafka has beyond it is deleted.
        services: The processes to run, or a function that makes them when Kafka runs and `port` may be called.
        progress: Is told what happens.
        vault: What Vault shall hold; None: the stack has no Vault. One that `VAULT_ADDR` gives is only looked at: its
            owner applies the table, and the services' files come from `VAULT_CREDENTIALS_DIRECTORY` or that apply.
        components: Further parts, started after Kafka and Vault in this order.
        die_with_supervisor: Have the kernel end every process when this one dies in any way (Linux).
        provision_external: With a cluster given by `KAFKA_BOOTSTRAP_SERVERS`: create topics, users and ACLs there. ACLs
            of principals that are not in the table are left alone.
        environment: Where the settings are read; default `os.environ`.
        restart_wait_max_s: The longest wait before a service that died again and again is started again.
    """

    def __init__(
        self,
        data_directory: Path,
        *,
        topics: Sequence[TopicSpec] = (),
        principals: Sequence[Principal] = (),
        acls: Sequence[AclRule] = (),
        services: Sequence[ServiceSpec] | Callable[[LocalStack], Sequence[ServiceSpec]] = (),
        progress: OnProgress = silent,
        vault: VaultTable | None = None,
        components: Sequence[Component] = (),
        die_with_supervisor: bool = True,
        provision_external: bool = False,
        environment: Mapping[str, str] | None = None,
        restart_wait_max_s: float = RESTART_WAIT_MAX_S,
    ) -> None:
        self.directory = Path(data_directory).absolute()
        self.logs_directory = self.directory / "logs"
        self._topics, self._acls = tuple(topics), tuple(acls)
        self._principals = tuple(principal.name for principal in principals)
        self._services = services
        self._progress = progress
        self._components = tuple(components)
        self._die_with_supervisor = die_with_supervisor
        self._restart_wait_max_s = restart_wait_max_s
        self._lock = DirectoryLock(self.directory)
        self._termination = OrderlyTermination()
        self._started: list[Component] = []
        self._supervisor: Supervisor | None = None
        self._ports: dict[str, int] = {}
        self.kafka = self._make_kafka(environment, provision_external)
        self.vault_table = vault
        self.vault_credentials = VaultCredentials(
            given_credentials(environment) or self.directory / "credentials" / "vault"
        )
        self.vault = None if vault is None else self._make_vault(environment)

    def _make_kafka(self, environment: Mapping[str, str] | None, provision: bool) -> KafkaBroker | ExternalKafka:
        credentials = self.directory / "credentials"
        login = external_login(environment)
        if login is not None:
            names = self._principals
            return ExternalKafka(
                login,
                principals=names,
                credentials_directory=credentials,
                provision=provision,
                given_credentials=external_credentials(environment),
            )
        return KafkaBroker(
            self.directory / "kafka",
            principals=self._principals,
            credentials_directory=credentials,
            logs_directory=self.logs_directory,
            die_with_supervisor=self._die_with_supervisor,
            on_progress=self._progress,
        )

    def _make_vault(self, environment: Mapping[str, str] | None) -> VaultServer | ExternalVault:
        login = external_vault(environment)
        if login is not None:
            return ExternalVault(login, given_audit_file(environment))
        return VaultServer(
            self.directory / "vault",
            logs_directory=self.logs_directory,
            die_with_supervisor=self._die_with_supervisor,
            on_progress=self._progress,
            environment=environment,
        )

    def __enter__(self) -> LocalStack:
        self._termination.install()
        try:
            self.start()
        except BaseException:
            self._termination.restore()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._termination.restore()

    # -- its life

    def start(self) -> None:
        """Start everything that does not run, and return when all of it is ready.

        Raises:
            DirectoryInUse: Another stack runs in the data directory.
            DownloadFailed: Kafka could not be downloaded, or Vault not be built.
            StartFailed: A part did not start or was not ready in time.
            ProvisioningFailed: A topic, user or ACL, or something of Vault, could not be made as the table says.
        """
        if self._lock.held:
            return
        private_directory(self.directory)
        private_directory(self.logs_directory)
        self._lock.acquire()
        self._ports = {}
        try:
            Records(self.directory).end_leftovers()
            self._start_component(self.kafka)
            self._provision()
            self._start_vault()
            for component in self._components:
                with Step(f"start {component.name}", self._progress):
                    self._start_component(component)
            self._start_services()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the services, then the components, Kafka last. Data stays. Without effect if nothing runs.

        Ctrl-C and SIGTERM are ignored meanwhile: it takes seconds, at most the sum of the grace times.
        """
        with undisturbed(), contextlib.ExitStack() as steps:  # every step is taken, whichever of them raises
            steps.callback(self._lock.release)
            for component in self._started:
                steps.callback(component.stop)
            if self._supervisor is not None:
                steps.callback(self._supervisor.stop)
            self._started, self._supervisor = [], None

    def wait(self) -> None:
        """Block until Ctrl-C or SIGTERM raises. Kafka and Vault are started again if they end, as the services are.

        Raises:
            StartFailed: One does not come back, or ended too often. Nothing that it acknowledged is lost.
        """
        watched = []
        if isinstance(self.kafka, KafkaBroker):
            watched.append(Revival(self.kafka, self.logs_directory / "kafka.log"))
        if isinstance(self.vault, VaultServer):
            watched.append(Revival(self.vault, self.vault.log_file))
        while True:
            time.sleep(WAIT_S)
            for revival in watched:
                revival.look()
            if isinstance(self.vault, VaultServer):
                self.vault.bound_audit()

    # -- what services and tests need

    @property
    def bootstrap_servers(self) -> str:
        """Kafka's address."""
        return self.kafka.bootstrap_servers

    def credentials_file(self, principal: str) -> Path:
        """The file by which a service logs in as the principal; the path is known before the start.

        Raises:
            SettingInvalid: No such principal.
        """
        if principal not in self._principals:
            names = ", ".join(self._principals) or "none"
            raise SettingInvalid(f"there is no principal {principal!r}; the stack has: {names}")
        return self.kafka.credentials_file(principal)

    def port(self, name: str) -> int:
        """A loopback port for a service, kept over restarts while it is free.

        The first call for a name chooses it: make that in the function `services`, before something listens there.

        Raises:
            SettingInvalid: It was not chosen, and the stack does not run.
        """
        if name not in self._ports:
            if not self._lock.held:
                raise SettingInvalid(f"port {name!r} was not chosen; call port({name!r}) in the function 'services'")
            self._ports |= ports.keep_ports(self.directory, (name,))
        return self._ports[name]

    def log_file(self, service: str) -> Path:
        """Where a service's standard output and error go."""
        return self.logs_directory / f"{service}.log"

    def kill_service(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a service a signal. One with `restart` comes back; `wait_ready` waits for that."""
        self._running().kill(name, number)

    def pid(self, name: str) -> int | None:
        """The pid of a service; None between a death and its restart."""
        return self._running().pid(name)

    def restarts(self, name: str) -> int:
        """How often a service was started again."""
        return self._running().restarts(name)

    def wait_ready(self, name: str, timeout_s: float) -> None:
        """Wait until a service runs and its `ready_url` answers.

        Raises:
            StartFailed: It ended and may not be restarted.
            NotReady: It was not ready in time.
        """
        self._running().wait_ready(name, timeout_s)

    def doctor(self) -> list[Check]:
        """All checks: the machine, directories, Kafka, Vault, the components and the services. Changes nothing."""
        checks = doctor.machine_checks(self.directory)
        holder = self._lock.holder()
        detail = f"runs with pid {holder}" if holder else "does not run"
        checks += [Check("stack", True, detail), doctor.privacy_check("file modes", [self.directory])]
        if holder is None:
            checks.append(doctor.stale_check("stale services", self.directory))
        for component in (self.kafka, self.vault, *self._components):
            checks += [] if component is None else component.doctor()
        if self._supervisor is not None:
            checks += self._supervisor.doctor()
        return checks

    # -- steps of the start

    def _start_component(self, component: Component) -> None:
        self._started.append(component)
        component.start()

    def _provision(self) -> None:
        external = isinstance(self.kafka, ExternalKafka)
        if isinstance(self.kafka, ExternalKafka) and not self.kafka.provision:
            return
        admin = self.kafka.admin()
        with Step("create topics", self._progress):
            admin.apply_topics(self._topics)
        with Step("set access rules", self._progress):
            admin.apply_acls(self._acls, principals=self._principals if external else None)

    def _start_vault(self) -> None:
        if self.vault is None or self.vault_table is None:
            return
        private_directory(self.directory / "credentials")
        self._start_component(self.vault)
        if isinstance(self.vault, VaultServer):
            with Step("apply Vault's policies and roles", self._progress):
                audit_path, credentials = self.vault.audit_path, self.vault_credentials
                table = self.vault_table
                Provisioning(self.vault.admin(), table, credentials=credentials, audit_path=audit_path).run()
        for role in self.vault_table.services:
            self.vault_credentials.login(role, self.vault.address)

    def _start_services(self) -> None:
        specs = self._services(self) if callable(self._services) else self._services
        self._supervisor = Supervisor(
            specs,
            directory=self.directory,
            logs_directory=self.logs_directory,
            die_with_supervisor=self._die_with_supervisor,
            on_progress=self._progress,
            restart_wait_max_s=self._restart_wait_max_s,
        )
        self._supervisor.start()

    def _running(self) -> Supervisor:
        if self._supervisor is None:
            raise SettingInvalid(f"the stack in {self.directory} does not run; call start()")
        return self._supervisor
