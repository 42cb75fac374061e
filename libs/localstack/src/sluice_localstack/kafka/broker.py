"""A real Kafka broker of one's own: KRaft, SASL/SCRAM, ACLs, one process on loopback."""

from __future__ import annotations

import base64
import contextlib
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

from sluice_localstack import ports
from sluice_localstack.cache import cache_directory
from sluice_localstack.component import Check
from sluice_localstack.doctor import broker_checks
from sluice_localstack.errors import LoginRefused, NotReady, SettingInvalid, StartFailed
from sluice_localstack.files import private_directory, write_private
from sluice_localstack.kafka import jars, jvm
from sluice_localstack.kafka.admin import Admin
from sluice_localstack.kafka.archive import WRITE_GRACE_S, ClassArchive
from sluice_localstack.kafka.login import ADMIN, Credentials, scram_argument
from sluice_localstack.processes import MARK, Child, Records, tail
from sluice_localstack.progress import OnProgress, Step, silent
from sluice_localstack.server import LocalServer
from sluice_runtime.connection import KafkaConnection

START_TIMEOUT_S = 90.0
"""Measured 2 to 8 s; a machine that swaps may take longer."""
FORMAT_TIMEOUT_S = 60.0
POLL_S = 0.05


class KafkaBroker(LocalServer):
    """A Kafka broker with a data directory.

    Guarantees, beside those of `LocalServer`: `start` returns when the administrator has logged in and the broker takes
    requests. Records it has acknowledged, users, ACLs and committed offsets outlive `stop`, `kill` and the supervisor's
    death. Passwords are random and stand in files with mode 0600 only.

    A `restart` after SIGKILL takes about 3 s longer: the dead process's session has to run out.

    Args:
        data_directory: See `LocalServer`, as the others that are not named here.
        principals: Users to create, beside `admin`. Without an ACL they may do nothing.
        credentials_directory: Where their credentials files are; default `<data_directory>/credentials`.
    """

    name = "kafka"
    title = "Kafka"

    def __init__(
        self,
        data_directory: Path,
        *,
        principals: Sequence[str] = (),
        credentials_directory: Path | None = None,
        logs_directory: Path | None = None,
        die_with_supervisor: bool = True,
        on_progress: OnProgress = silent,
    ) -> None:
        super().__init__(
            data_directory,
            logs_directory=logs_directory,
            die_with_supervisor=die_with_supervisor,
            on_progress=on_progress,
        )
        self.credentials = Credentials(credentials_directory or self.directory / "credentials")
        self._principals = tuple(principals)

    # -- how clients reach it

    @property
    def bootstrap_servers(self) -> str:
        """`127.0.0.1:port`: of this object's broker, or of the one that another process runs in the directory.

        Raises:
            SettingInvalid: None was ever started here.
        """
        return f"{ports.LOOPBACK}:{self._port('client')}"

    def login(self, principal: str = ADMIN) -> KafkaConnection:
        """How a principal logs in.

        Raises:
            SettingInvalid: No such principal, or not started.
        """
        return self.credentials.login(principal, self.bootstrap_servers)

    def client_config(self, principal: str = ADMIN) -> dict[str, str]:
        """Settings for a confluent-kafka client that logs in as the principal."""
        return self.login(principal).confluent()

    def credentials_file(self, principal: str) -> Path:
        """The file a service reads to log in as the principal."""
        return self.credentials.file(principal)

    def admin(self) -> Admin:
        """What the administrator may do: topics, users, ACLs."""
        return Admin(self.login(ADMIN))

    # -- its life

    def ready(self) -> bool:
        """Whether the administrator can log in and the broker answers."""
        if self.pid is None:
            return False
        with contextlib.suppress(Exception):
            return self.admin().answers()
        return False

    def doctor(self) -> list[Check]:
        """Java, jars, file modes, leftovers, ports, and the login where a broker runs."""
        return broker_checks(self.directory, self.credentials.directory, self.admin, self.supervisor_pid)

    # -- steps of the start

    def _start(self) -> None:
        cache = cache_directory()
        lock = jars.read_lock()
        archive = ClassArchive(jars.ensure_jars(lock, cache, self._on_progress))
        class_path = jars.class_path(lock, cache)
        Records(self.directory).end_leftovers()
        private_directory(self.logs_directory)
        new = self.credentials.make((ADMIN, *self._principals))
        self._refuse_lost_password(new)
        write_private(self.directory / "log4j2.properties", _template("log4j2.properties"))
        self._choose_ports()
        if not self._formatted:
            self._format(class_path, archive)
        if not archive.recorded:
            self._record(class_path, archive)
        self._child = self._make_child(class_path, archive.options())
        self._launch_on_free_ports()
        self._apply_principals()

    def _make_child(self, class_path: str, options: tuple[str, ...]) -> Child:
        argv = jvm.command(
            "kafka.Kafka",
            str(self._server_properties),
            heap=jvm.BROKER_HEAP,
            options=(*self._options(), *options),
        )
        return Child(
            self.name,
            argv,
            environment=jvm.environment(class_path),
            log_file=self.logs_directory / "kafka-console.log",
            records=Records(self.directory),
            death_signal=self._death_signal,
        )

    def _choose_ports(self) -> None:
        self._ports = ports.keep_ports(self.directory, ("client", "controller"))
        self._write_server_properties(self._server_properties, self._data)

    def _record(self, class_path: str, archive: ClassArchive) -> None:
        with Step("prepare Kafka for fast starts", self._on_progress), archive.recording() as options:
            if options is not None:
                self._child = self._make_child(class_path, options)
                self._launch()
                self._child.stop(WRITE_GRACE_S)

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _server_properties(self) -> Path:
        return self.directory / "server.properties"

    @property
    def _formatted(self) -> bool:
        return (self._data / "meta.properties").exists()

    def _options(self) -> tuple[str, ...]:
        settings = self.directory / "log4j2.properties"
        return (f"-Dkafka.logs.dir={self.logs_directory}", f"-Dlog4j2.configurationFile={settings}")

    def _refuse_lost_password(self, new: list[str]) -> None:
        if ADMIN in new and self._formatted:
            self.credentials.file(ADMIN).unlink()
            raise SettingInvalid(
                f"{self.credentials.file(ADMIN)} is missing, but {self.directory} holds data that knows its password; "
                "restore the file, or start with a new directory"
            )

    def _write_server_properties(self, path: Path, data: Path) -> None:
        text = Template(_template("server.properties")).substitute(
            client_port=self._ports["client"],
            controller_port=self._ports["controller"],
            log_directory=data,
            admin_password=self.credentials.password(ADMIN),
        )
        write_private(path, text)

    def _format(self, class_path: str, archive: ClassArchive) -> None:
        """Make the storage, with the administrator as its first user.

        It gets its name when it is complete, so a format that was killed is done again. The arguments go by a private
        file (`@file`), since what they hold is as good as the password.
        """
        new = self.directory / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        private_directory(new)
        properties, arguments = self.directory / "format.properties", self.directory / "format.arguments"
        user = scram_argument(ADMIN, self.credentials.password(ADMIN) or "")
        lines = ["format", "--config", str(properties), "--cluster-id", _cluster_id(), "--standalone"]
        self._write_server_properties(properties, new)
        write_private(arguments, "\n".join([*lines, "--add-scram", user]))
        options = (*self._options(), *archive.options(), "-XX:TieredStopAtLevel=1")
        try:
            with Step("format Kafka's storage", self._on_progress):
                tool = ("kafka.tools.StorageTool", f"@{arguments}")
                self._run_storage_tool(jvm.command(*tool, heap=jvm.TOOL_HEAP, options=options), class_path)
                new.rename(self._data)
        except OSError as error:
            raise StartFailed(
                f"{self._data} holds files, but is no Kafka storage ({error.strerror}); move it away and start again"
            ) from error
        finally:
            arguments.unlink(missing_ok=True)
            properties.unlink(missing_ok=True)

    def _run_storage_tool(self, argv: list[str], class_path: str) -> None:
        environment = {**jvm.environment(class_path), MARK: str(self.directory)}
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                timeout=FORMAT_TIMEOUT_S,
                umask=0o077,
                env=environment,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StartFailed(
                f"Kafka's storage in {self.directory} was not formatted within {FORMAT_TIMEOUT_S:.0f} s; start again"
            ) from error
        if done.returncode != 0:
            raise StartFailed(
                f"Kafka's storage in {self.directory} could not be formatted (exit {done.returncode}); start again if "
                f"the text does not say why: {(done.stderr or done.stdout).strip()[-1_000:]}"
            )

    def _launch(self) -> None:
        assert self._child is not None
        self._child.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ports.accepts(self._ports["client"]):
            self._still_starting(deadline)
            time.sleep(POLL_S)
        admin = self.admin()
        while not self._answers(admin):
            self._still_starting(deadline)
            time.sleep(POLL_S)

    def _answers(self, admin: Admin) -> bool:
        try:
            return admin.answers()
        except LoginRefused:  # the users stand in the metadata log, which is loaded a moment after the port opens
            return False

    def _still_starting(self, deadline: float) -> None:
        assert self._child is not None
        log = self.logs_directory / "kafka.log"
        if self._child.pid is None:
            raise StartFailed(
                f"Kafka ended with code {self._child.exit_code} while it started; read {log}:\n"
                f"{tail(log, 6)}\n{self._child.log_tail()}"
            )
        if time.monotonic() > deadline:
            raise NotReady(f"Kafka was not ready within {START_TIMEOUT_S:.0f} s; read {log}:\n{tail(log, 6)}")

    def _apply_principals(self) -> None:
        passwords = {name: self.credentials.password(name) or "" for name in self._principals}
        self.admin().set_passwords(passwords)
        for name in (ADMIN, *self._principals):
            self.credentials.write(name, self.login(name))


def _cluster_id() -> str:
    """16 random bytes. Not with '-' in front: Kafka's parser takes that for an option."""
    return base64.urlsafe_b64encode(b"K" + secrets.token_bytes(15)).decode().rstrip("=")


def _template(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
