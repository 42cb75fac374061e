"""Where an installation is: its addresses and files, as `sluice up` leaves them or settings give them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sluice_client.errors import InputInvalid, NotRunning

HOME = ".sluice"
"""The folder of local stacks: looked for in the working directory and above it, as git looks for its own."""
STACK = "stack"
"""The stack in it that commands mean when they are told nothing else."""
STATE_FILE = "installation.json"
FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Installation:
    """What a client has to know. None: it is not known here, and commands that need it say how to give it.

    Attributes:
        api_url: The api's address.
        sql_url: The address that speaks ClickHouse's HTTP interface; with user, password and database where it asks.
        sql_readonly: Whether queries are sent with `readonly=1`; False for a user whose profile forbids to set it.
        kafka: Bootstrap servers.
        credentials_directory: Has one file for each Kafka principal. No secret stands in this object.
        artifacts_url: Where run inputs are put.
        scenarios_directory: Where the scripted model finds scenarios; None where it can't be reached from here.
        model_provider: Who answers for tasks that name no model: `scripted`, `openrouter`, `openai`.
        vault_addr: Vault's address; None: there is none here.
        vault_credentials_directory: Has the files by which the services log in to Vault.
        vault_pipeline_max_ttl: The explicit maximum of a pipeline's token.
        data_directory: Of the local stack.
    """

    api_url: str | None = None
    sql_url: str | None = None
    sql_user: str | None = None
    sql_password_file: str | None = None
    sql_database: str | None = None
    sql_readonly: bool = True
    kafka: str | None = None
    credentials_directory: str | None = None
    artifacts_url: str | None = None
    scenarios_directory: str | None = None
    topic_prefix: str = "sluice."
    queues: tuple[str, ...] = ("default",)
    partitions: int = 8
    model_provider: str = "scripted"
    vault_addr: str | None = None
    vault_ca_file: str | None = None
    vault_credentials_directory: str | None = None
    vault_pipeline_max_ttl: str = "24h"
    data_directory: str | None = None

    def credentials_file(self, principal: str) -> Path:
        """The file by which a principal logs in to Kafka.

        Raises:
            NotRunning: No credentials are known here.
        """
        if self.credentials_directory is None:
            raise NotRunning(
                "no Kafka credentials are known here; set SLUICE_CREDENTIALS_DIRECTORY to the folder of the users' "
                "files, or name a local stack by --data"
            )
        return Path(self.credentials_directory) / f"{principal}.json"

    def needed_api_url(self) -> str:
        """The api's address.

        Raises:
            NotRunning: It is not known.
        """
        if self.api_url is None:
            raise NotRunning("the api's address is not known; set SLUICE_URL, or start a stack: sluice up")
        return self.api_url

    def needed_sql_url(self) -> str:
        """The SQL address.

        Raises:
            NotRunning: It is not known.
        """
        if self.sql_url is None:
            raise NotRunning(
                "the SQL address is not known; set SLUICE_SQL_URL to the store's, or to a ClickHouse server's"
            )
        return self.sql_url


def default_data_directory(start: Path | None = None) -> Path:
    """`.sluice/stack` in the nearest directory, upwards from here, that has a `.sluice`; else in this one."""
    here = (start or Path.cwd()).absolute()
    for directory in (here, *here.parents):
        if (directory / HOME / STACK).is_dir():
            return directory / HOME / STACK
    return here / HOME / STACK


def data_directory(given: Path | None, environment: Mapping[str, str] | None = None) -> Path:
    """The local stack's directory: as given, or `SLUICE_DATA_DIRECTORY`, or the default one."""
    settings = os.environ if environment is None else environment
    named = given or (Path(settings["SLUICE_DATA_DIRECTORY"]) if settings.get("SLUICE_DATA_DIRECTORY") else None)
    return default_data_directory() if named is None else named.expanduser().absolute()


def save(installation: Installation, directory: Path) -> None:
    """Leaves word of a stack that runs, for other commands. Atomic; readable by the owner alone."""
    file = directory / STATE_FILE
    temporary = file.with_name(f".{STATE_FILE}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(asdict(installation), stream, indent=1)
    temporary.replace(file)


def forget(directory: Path) -> None:
    """Takes the word back."""
    (directory / STATE_FILE).unlink(missing_ok=True)


def holder(directory: Path) -> int | None:
    """The pid of the process that runs the stack in a data directory; None if none does.

    The stack's own lock is asked, so that what a killed one left behind is not taken for it.
    """
    try:
        descriptor = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return int(os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or 0)
    finally:
        os.close(descriptor)
    return None


def saved(directory: Path) -> Installation:
    """The stack that runs in a data directory.

    Raises:
        NotRunning: None does, or it is not ready yet.
    """
    if holder(directory) is None:
        raise NotRunning(f"no stack runs in {directory}; start one: sluice up, or name another: --data, --url")
    try:
        content = json.loads((directory / STATE_FILE).read_text())
        known = {field.name for field in fields(Installation)}
        values = {name: value for name, value in content.items() if name in known}
        return Installation(**{**values, "queues": tuple(values["queues"])})
    except FileNotFoundError:
        raise NotRunning(f"the stack in {directory} is still starting, or stopping; try again in a moment") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise NotRunning(
            f"{directory / STATE_FILE} can't be read; start the stack again: sluice down, sluice up"
        ) from None


def find(
    *, url: str | None = None, data: Path | None = None, environment: Mapping[str, str] | None = None
) -> Installation:
    """The installation that a command means.

    A URL (`--url`, `SLUICE_URL`) names one by its api; what else is needed then comes from `SLUICE_SQL_URL`,
    `SLUICE_SQL_USER`, `SLUICE_SQL_PASSWORD_FILE`, `SLUICE_SQL_DATABASE`, `SLUICE_SQL_READONLY`, `SLUICE_ARTIFACTS_URL`,
    `SLUICE_CREDENTIALS_DIRECTORY`, `SLUICE_TOPIC_PREFIX`, `SLUICE_QUEUES`, `SLUICE_MODEL_PROVIDER`. Without a URL it is
    the local stack.

    Raises:
        NotRunning: No stack runs where it was looked for.
        InputInvalid: The URL is none.
    """
    settings = os.environ if environment is None else environment
    local = None
    address = url or (None if data else settings.get("SLUICE_URL"))
    if address is None:
        return saved(data_directory(data, settings))
    if not address.startswith(("http://", "https://")):
        raise InputInvalid(f"--url {address!r} is no URL; give it as http://host:port")
    with contextlib.suppress(NotRunning):
        # The local stack under its own address: then all the rest is known too.
        local = saved(data_directory(data, settings))
    if local is not None and local.api_url == address.rstrip("/"):
        return local
    return Installation(
        api_url=address.rstrip("/"),
        sql_url=settings.get("SLUICE_SQL_URL") or None,
        sql_user=settings.get("SLUICE_SQL_USER") or None,
        sql_password_file=settings.get("SLUICE_SQL_PASSWORD_FILE") or None,
        sql_database=settings.get("SLUICE_SQL_DATABASE") or None,
        sql_readonly=settings.get("SLUICE_SQL_READONLY", "").lower() not in ("false", "0"),
        kafka=settings.get("KAFKA_BOOTSTRAP_SERVERS") or None,
        credentials_directory=settings.get("SLUICE_CREDENTIALS_DIRECTORY") or None,
        artifacts_url=settings.get("SLUICE_ARTIFACTS_URL") or None,
        topic_prefix=settings.get("SLUICE_TOPIC_PREFIX", "sluice."),
        queues=tuple(one.strip() for one in settings.get("SLUICE_QUEUES", "default").split(",") if one.strip()),
        model_provider=settings.get("SLUICE_MODEL_PROVIDER", "openai"),
    )
