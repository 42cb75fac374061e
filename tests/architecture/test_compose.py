"""What can be said of the compose file without Docker: whatever it names is there, and may be read by who reads it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from sluice_agent_runner.settings import RunnerSettings
from sluice_client import wiring
from sluice_client.cli import app
from sluice_contracts.topics import Principal
from sluice_localstack import LocalStack, ServiceSpec, VaultAddress, VaultCredentials
from sluice_observability.settings import ApiSettings, MonitorSettings, StoreSettings
from sluice_runtime.connection import KafkaConnection
from sluice_runtime.lifecycle import STOP_MAX_S
from sluice_runtime.settings import PREFIX, ServiceSettings
from sluice_runtime.vault import names as vault_names
from sluice_spawner.settings import SpawnerSettings
from sluice_vault_broker.audit.settings import AuditSettings
from sluice_vault_broker.settings import BrokerSettings

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS: dict[str, type[ServiceSettings]] = {
    "spawner": SpawnerSettings, "agent-runner": RunnerSettings, "store": StoreSettings, "api": ApiSettings,
    "monitor": MonitorSettings, "vault-broker": BrokerSettings, "vault-audit": AuditSettings,
}  # fmt: skip
DEFAULT_IN_AN_IMAGE = {
    "SLUICE_TOPIC_PREFIX",
    "SLUICE_ARTIFACTS_URL",
    "SLUICE_WORKSPACES_DIRECTORY",
    "SLUICE_CLICKHOUSE_DIRECTORY",
}
"""What one machine has to be told, since its folders are elsewhere, and a container has by default."""
AS_ROOT_FIRST = {"clickhouse", "vault"}
"""Images that begin as root and go on as a user of their own."""
SECRET_MODES = {0o600, 0o700}
READ_ONLY = {("vault-logs", "/vault/logs")}
"""Volumes that are another's, and only read by a service of ours."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's root as the script leaves it, with all that was there before."""
    root = tmp_path_factory.mktemp("root")
    shutil.copytree(ROOT / "deploy", root / "deploy", ignore=shutil.ignore_patterns("secrets", "data"))
    (root / "examples" / "incident").mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "incident" / "scenario.yaml", root / "examples" / "incident")
    (root / ".env").write_text("SLUICE_MODEL_PROVIDER=scripted\n")
    script = root / "deploy" / "compose" / "prepare.sh"
    subprocess.run([script], check=True, capture_output=True)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    subprocess.run([script], check=True, capture_output=True)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before, "a second run changes it"
    return root


def known_to(name: str) -> set[str]:
    """The variables that a service reads."""
    return {f"{PREFIX}{field.upper()}" for field in SETTINGS[name].model_fields}


def interpolated(value: str) -> str:
    """As Compose does it where no variable is set but the user's."""
    return re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", lambda found: found[2] or "", value)


def secrets_of(service: dict[str, Any]) -> dict[str, str]:
    """By the name under `/run/secrets`: the secret."""
    rows = [one if isinstance(one, dict) else {"source": one} for one in service.get("secrets", [])]
    return {row.get("target", row["source"]): row["source"] for row in rows}


def mounts_of(service: dict[str, Any]) -> list[tuple[str, str]]:
    """Sources and targets."""
    found = []
    for one in service.get("volumes", []):
        source, target = (one["source"], one["target"]) if isinstance(one, dict) else one.split(":")[:2]
        found.append((source, target))
    return found


def test_a_file_of_every_secret_is_made_for_one_user_alone(prepared: Path) -> None:
    for secret in COMPOSE["secrets"].values():
        assert (prepared / secret["file"]).stat().st_mode & 0o777 == 0o600, secret
    for path in (prepared / "deploy" / "compose" / "secrets").rglob("*"):
        if path.name != "clickhouse_users.xml":
            assert path.stat().st_mode & 0o777 in SECRET_MODES, path
    assert re.search(r"^SLUICE_UID=\d+$", (prepared / ".env").read_text(), re.M)
    assert "SLUICE_MODEL_PROVIDER=scripted" in (prepared / ".env").read_text(), "what stood there is kept"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_who_reads_secrets_or_folders_of_this_host_runs_as_their_owner(name: str, prepared: Path) -> None:
    service = SERVICES[name]
    own = [source for source, _ in mounts_of(service) if source.startswith(".")]
    for source in own:
        made = source.startswith("./deploy/compose/secrets") or source.startswith("./deploy/compose/data")
        assert (prepared / source if made else ROOT / source).exists(), f"{source} is made by nobody"
    if name in AS_ROOT_FIRST:
        assert "user" not in service
        files = [prepared / source for source in own]
        assert all(file.is_file() and file.stat().st_mode & 0o444 == 0o444 for file in files), "read by another user"
    elif service.get("secrets") or own or name in SETTINGS:
        assert service["user"].startswith("${SLUICE_UID")
    assert set(secrets_of(service).values()) <= COMPOSE["secrets"].keys()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_named_volume_lies_where_the_image_lets_every_user_write(name: str) -> None:
    service = SERVICES[name]
    for source, target in mounts_of(service):
        if source.startswith("."):
            continue
        assert source in COMPOSE["volumes"]
        if "build" in service and (source, target) not in READ_ONLY:
            dockerfile = (ROOT / service["build"]["dockerfile"]).read_text()
            assert f"install -d -m 1777 {target}\n" in dockerfile, f"{name}: {target} would belong to root"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServiceSpec]:
    """The processes of a local stack that writes into a ClickHouse server, as Compose does; not started."""
    directory = tmp_path_factory.mktemp("data")
    settings = wiring.Settings(
        directory,
        roles_directories=(directory / "roles",),
        scenarios_directory=directory / "scenarios",
        clickhouse_url="http://sluice@clickhouse:8123/sluice",
        clickhouse_password_file=directory / "password",
        sql_user="reader",
        sql_password_file=directory / "reader",
    )
    (directory / "roles").mkdir()
    stack = SimpleNamespace(  # as much of a running stack as the wiring asks for
        port=lambda name: 8080,
        credentials_file=lambda principal: directory / f"{principal}.json",
        vault=SimpleNamespace(address=VaultAddress("http://vault:8200"), audit_file=directory / "audit.log"),
        vault_credentials=VaultCredentials(directory / "vault"),
    )
    return {spec.name: spec for spec in wiring.services_of(settings, cast(LocalStack, stack))}


@pytest.mark.covers("D1")
def test_every_process_of_the_local_stack_is_a_service_here(local: dict[str, ServiceSpec]) -> None:
    assert local.keys() == SETTINGS.keys()
    for name, process in local.items():
        service = SERVICES[name]
        image = (ROOT / service["build"]["dockerfile"]).read_text()
        entrypoint = json.loads(re.search(r"^ENTRYPOINT (.*)$", image, re.M)[1])  # type: ignore[index]
        assert [*entrypoint[1:], *service.get("command", [])] == [*process.argv[1:]], name


@pytest.mark.covers("D1")
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_service_is_told_what_the_local_stack_tells_it(name: str, local: dict[str, ServiceSpec]) -> None:
    given = set(SERVICES[name]["environment"])
    if name == "api":  # all parts of an address stand in one URL
        given |= {"SLUICE_SQL_USER", "SLUICE_SQL_DATABASE"} if "SLUICE_SQL_URL" in given else set()
        given |= {"SLUICE_SQL_READONLY"}  # true by default, and Compose's reader may be asked so
    assert set(local[name].environment) <= known_to(name)
    assert set(local[name].environment) - given <= DEFAULT_IN_AN_IMAGE


@pytest.mark.covers("V4", "D1")
def test_a_service_sees_its_own_login_at_vault_and_no_other(prepared: Path) -> None:
    for name, role in (("vault-broker", vault_names.BROKER), ("agent-runner", vault_names.RUNNER)):
        service = SERVICES[name]
        mounts = {target: prepared / source for source, target in mounts_of(service)}
        files = [Path(service["environment"][f"SLUICE_VAULT_{what}_FILE"]) for what in ("ROLE_ID", "SECRET_ID")]
        written = VaultCredentials(prepared / "deploy/compose/secrets/vault/services").files(role)
        assert [mounts[str(file.parent)] / file.name for file in files] == [
            written.role_id_file, written.secret_id_file
        ]  # fmt: skip
        assert mounts[str(files[0].parent)].stat().st_mode & 0o777 == 0o700
        assert service["depends_on"]["vault-apply"] == {"condition": "service_completed_successfully"}
        assert service["environment"]["SLUICE_VAULT_ADDR"] == SERVICES["vault-apply"]["environment"]["VAULT_ADDR"]
    folder = "./deploy/compose/secrets/vault"
    seen = {
        name: [source for source, _ in mounts_of(one) if source.startswith(folder)] for name, one in SERVICES.items()
    }
    assert {name: sources for name, sources in seen.items() if sources} == {
        "vault-apply": [folder], **{name: [f"{folder}/services/{name}"] for name in ("vault-broker", "agent-runner")},
    }  # fmt: skip
    spawner = SERVICES["spawner"]["environment"]
    assert interpolated(spawner["SLUICE_CREDENTIALS"]) == SpawnerSettings.model_fields["credentials"].default


@pytest.mark.covers("V4", "D1")
@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_secret_stands_in_the_environment(name: str) -> None:
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|KEY")
    assert not [
        key for key in SERVICES[name].get("environment", {}) if secret.search(key) and not key.endswith("_FILE")
    ]


@pytest.mark.covers("D1")
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_service_knows_every_variable_and_can_use_its_value(name: str) -> None:
    service, settings = SERVICES[name], SETTINGS[name]
    given = {key: interpolated(value) for key, value in service["environment"].items()}
    assert set(given) <= known_to(name)
    found = settings(**{key.removeprefix(PREFIX).lower(): value for key, value in given.items() if value})  # type: ignore[arg-type]
    assert (found.http_host, found.http_port) == ("0.0.0.0", 8080)
    assert "http://127.0.0.1:8080/readyz" in service["healthcheck"]["test"][-1]
    for key, value in given.items():
        if key.endswith("_FILE"):
            mounted = str(Path(value).parent) in [target for _, target in mounts_of(service)]
            secret = value.removeprefix("/run/secrets/") in secrets_of(service)
            assert mounted or secret, f"{key}: {value} is no secret of {name}"
        if key.endswith(("_DIRECTORY", "_DIRECTORIES")):
            assert value in [target for _, target in mounts_of(service)], f"{key}: nothing is mounted at {value}"
    assert int(service["stop_grace_period"].removesuffix("s")) > STOP_MAX_S


def test_roles_queues_and_the_limit_of_agents_reach_whom_they_concern() -> None:
    """A queue is known to three: who makes its topics, who hands its tasks out, who takes them."""
    for name in ("spawner", "agent-runner"):
        folder = SERVICES[name]["environment"]["SLUICE_ROLES_DIRECTORIES"]
        assert ("./deploy/compose/data/roles", folder) in mounts_of(SERVICES[name])
    for name in SETTINGS:
        if "SLUICE_QUEUES" in known_to(name):
            assert SERVICES[name]["environment"]["SLUICE_QUEUES"] == "${SLUICE_QUEUES:-default}"
    assert interpolated(SERVICES["spawner"]["environment"]["SLUICE_MAX_AGENTS"]) == "50"
    command = SERVICES["topics"]["command"]
    assert command[command.index("--roles") + 1] == folder
    assert ("./deploy/compose/data/roles", folder) in mounts_of(SERVICES["topics"])


def test_artifacts_and_workspaces_have_a_place_that_lasts() -> None:
    for name in ("agent-runner", "api"):
        settings = SETTINGS[name].model_fields
        folder = urlsplit(str(settings["artifacts_url"].default)).path
        assert ("./deploy/compose/data/artifacts", folder) in mounts_of(SERVICES[name])
    workspaces = Path(RunnerSettings.model_fields["workspaces_directory"].default)
    # In the volume, not the volume itself: the runner makes it 0700, and only an owner may do that.
    assert str(workspaces.parent) in [
        target for source, target in mounts_of(SERVICES["agent-runner"]) if source[0] != "."
    ]


def test_the_api_asks_clickhouse_as_a_user_who_may_only_read(prepared: Path) -> None:
    environment = SERVICES["api"]["environment"]
    api = ApiSettings(kafka_bootstrap_servers="h:1", sql_url=environment["SLUICE_SQL_URL"]).sql_address()
    store = urlsplit(SERVICES["store"]["environment"]["SLUICE_CLICKHOUSE_URL"])
    assert (api.host, api.port, api.database) == (store.hostname, store.port, store.path.strip("/"))
    assert api.host in SERVICES
    assert SERVICES[api.host]["environment"]["CLICKHOUSE_DB"] == api.database
    users = ElementTree.parse(prepared / "deploy" / "compose" / "secrets" / "clickhouse_users.xml")
    reader, writer = users.find(f"users/{api.user}"), users.find(f"users/{store.username}")
    assert reader is not None
    assert writer is not None
    assert users.findtext(f"profiles/{reader.findtext('profile')}/readonly") == "1"
    assert {grant.text for grant in reader.iterfind("grants/query")} == {
        f"GRANT SELECT, SHOW ON {api.database}.*", "GRANT SELECT ON system.settings",
    }  # fmt: skip
    secrets = prepared / "deploy" / "compose" / "secrets"
    for user, file in ((reader, "clickhouse_reader_password"), (writer, "clickhouse_password")):
        password = (secrets / file).read_text().strip()
        assert len(password) > 20
        assert user.findtext("password_sha256_hex") == sha256(password.encode()).hexdigest()


def test_kafka_has_an_address_for_the_services_and_one_for_this_host(prepared: Path) -> None:
    secrets = prepared / "deploy" / "compose" / "secrets"
    lines = (secrets / "kafka" / "server.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    advertised = dict(one.split("://") for one in properties["advertised.listeners"].split(","))
    inside = {str(one) for one in Principal} | {"admin"}
    assert inside == {path.stem for path in secrets.glob("*.json")}
    assert len((secrets / "kafka" / "users").read_text().splitlines()) == len(inside)
    for path in [*secrets.glob("*.json"), *(secrets / "host").glob("*.json")]:
        connection = KafkaConnection.from_file(path)
        listener = "HOST" if path.parent.name == "host" else "CLIENT"
        assert connection.bootstrap_servers == advertised[listener]
        assert connection.username == path.stem
        assert f"name={connection.username},password={connection.password}]" in (secrets / "kafka/users").read_text()
    assert f"127.0.0.1:{advertised['HOST'].rpartition(':')[2]}" in SERVICES["kafka"]["ports"][0]


@pytest.mark.covers("D1")
def test_vault_is_opened_and_filled_by_the_command(prepared: Path) -> None:
    service = SERVICES["vault-apply"]
    arguments = service["command"]
    command = get_command(app)
    assert isinstance(command, TyperGroup)
    group = command.commands["vault"]
    assert isinstance(group, TyperGroup)
    known = {option for parameter in group.commands[arguments[1]].params for option in parameter.opts}
    options = dict(zip(arguments[2::2], arguments[3::2], strict=True))
    assert set(options) <= known
    mounts = {target: source for source, target in mounts_of(service)}
    for option in ("--keys", "--credentials"):
        source = prepared / mounts[str(Path(options[option]).parent)]
        assert source.stat().st_mode & 0o777 == 0o700
    assert options["--roles"] in mounts
    assert str(Path(options["--audit-file"]).parent) in [target for _, target in mounts_of(SERVICES["vault"])]
    assert service["environment"]["VAULT_ADDR"] == "http://vault:8200"
    configuration = (ROOT / "deploy" / "compose" / "vault.hcl").read_text()
    storage = re.search(r'path += "([^"]+)"', configuration)
    assert storage is not None
    assert storage[1] in [target for _, target in mounts_of(SERVICES["vault"])]


@pytest.mark.covers("D1", "V7")
def test_vault_s_audit_file_is_followed_where_vault_writes_it() -> None:
    follower, apply = SERVICES["vault-audit"], SERVICES["vault-apply"]["command"]
    file = follower["environment"]["SLUICE_VAULT_AUDIT_FILE"]
    assert apply[apply.index("--audit-file") + 1] == file
    [volume] = follower["volumes"]
    source, target, mode = volume.split(":")
    assert (source, target) in mounts_of(SERVICES["vault"])
    assert (target, mode) == (str(Path(file).parent), "ro")
    # It runs as whoever may read its secret, and reads the file by Vault's group.
    assert apply[apply.index("--audit-mode") + 1] == "0640"
    assert follower["group_add"] == ["1000"]
    assert follower["command"] == ["audit"]
    assert set(secrets_of(follower)) == {"kafka"}, "nothing of Vault's"


def test_nothing_listens_but_on_loopback() -> None:
    ports = {name: service.get("ports", []) for name, service in SERVICES.items()}
    assert all(port.startswith("127.0.0.1:") for published in ports.values() for port in published)
    assert {name for name, published in ports.items() if published} == {"kafka", "clickhouse", "api"}


def test_the_command_on_this_host_is_told_where_everything_is(prepared: Path) -> None:
    script = prepared / "deploy" / "compose" / "data" / "client.env"
    program = 'set -u; . "$0"; env -0'
    shown = subprocess.run(["/bin/sh", "-c", program, script], check=True, capture_output=True, text=True, env={})
    told = dict(line.split("=", 1) for line in shown.stdout.split("\0") if line)
    assert Path(told["SLUICE_SQL_PASSWORD_FILE"]).is_file()
    assert (Path(told["SLUICE_CREDENTIALS_DIRECTORY"]) / "dlq-operator.json").is_file()
    assert Path(unquote(urlsplit(told["SLUICE_ARTIFACTS_URL"]).path)).is_dir()
    assert told["SLUICE_MODEL_PROVIDER"] == "scripted"
    published = [port.removesuffix(":8080") for port in SERVICES["api"]["ports"]]
    assert told["SLUICE_URL"].removeprefix("http://") in published


def test_what_is_built_and_the_secrets_stay_apart() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert [line for line in ignored if not line.startswith("#")] == [
        "*",
        "!libs",
        "!requirements/build.lock",
        "!services",
        "**/__pycache__",
    ]
    for service in SERVICES.values():
        if "build" in service:
            assert service["build"]["context"] == "."
            copied = re.findall(r"^COPY (?!--from)(\S+)", (ROOT / service["build"]["dockerfile"]).read_text(), re.M)
            assert copied
            assert all(
                (ROOT / path).exists() and path.startswith(("libs", "services", "requirements/build.lock"))
                for path in copied
            )
