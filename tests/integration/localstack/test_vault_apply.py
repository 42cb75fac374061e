"""Bringing a Vault to what the table says: twice is once, what has drifted is set right, a given one is only asked."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sluice_client.cli import run
from sluice_localstack import (
    ExternalVault,
    LocalStack,
    LoginRefused,
    NotReady,
    Provisioning,
    ProvisioningFailed,
    SettingInvalid,
    VaultAddress,
    VaultClient,
    VaultLogin,
    VaultServer,
    cache_directory,
    external_vault,
    vault_table,
)
from sluice_localstack.vault.build import program_path
from sluice_localstack.vault.keys import KeyFile
from sluice_runtime.vault import names
from tests.integration.localstack.tools import until
from tests.integration.localstack.vault import RunningVault, tls

KEY = "sk-or-canary-0123456789"


@pytest.fixture
def given(vault: RunningVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The shared Vault, as a given one of a command; a directory for its credentials."""
    token = tmp_path / "token"
    token.write_text(f"{vault.root.token}\n")
    for name in ("VAULT_TOKEN", "VAULT_CACERT", "VAULT_ROLE_ID_FILE", "VAULT_SECRET_ID_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VAULT_ADDR", vault.url)
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(token))
    monkeypatch.setenv("SLUICE_DATA_DIRECTORY", str(tmp_path / "no-stack"))
    monkeypatch.setenv("VAULT_CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    yield tmp_path / "credentials"
    assert {change.state for change in vault.apply()} == {"unchanged"}, "as it was found"


def states(text: str) -> dict[str, str]:
    """By name and kind, what a command says it did."""
    return {f"{row['kind']} {row['name']}": row["state"] for row in json.loads(text)["changes"]}


@pytest.mark.covers("D1", "D4")
def test_a_second_apply_changes_nothing(vault: RunningVault) -> None:
    before = vault.server.audit_file.stat().st_size
    assert {change.state for change in vault.apply()} == {"unchanged"}
    lines = vault.server.audit_file.read_text()[before:].splitlines()
    asked = [json.loads(line)["request"] for line in lines if json.loads(line)["type"] == "request"]
    assert {one["operation"] for one in asked if not one["path"].endswith("/lookup")} == {"read"}, "nothing is written"


@pytest.mark.covers("D1")
@pytest.mark.parametrize(
    ("path", "body", "what"),
    [
        ("sys/policies/acl/vault-broker", {"policy": 'path "*" { capabilities = ["sudo"] }'}, "policy vault-broker"),
        ("sys/policies/acl/sluice-queue-review", None, "policy sluice-queue-review"),
        ("auth/approle/role/agent-runner", {"token_policies": ["vault-broker"]}, "approle agent-runner"),
        ("auth/approle/role/pipeline-orchestrator", {"secret_id_num_uses": 0}, "approle pipeline-orchestrator"),
        ("auth/approle/role/pipeline-orchestrator", {"token_ttl": "9h"}, "approle pipeline-orchestrator"),
        ("auth/token/roles/sluice-pipeline", {"allowed_policies_glob": ["*"]}, "token role sluice-pipeline"),
        ("auth/token/roles/sluice-pipeline", None, "token role sluice-pipeline"),
        ("sys/audit/sluice", None, "audit device sluice"),
    ],
)  # fmt: skip
def test_what_has_drifted_is_set_right(vault: RunningVault, path: str, body: dict[str, Any] | None, what: str) -> None:
    answer = vault.root.ask("DELETE", path) if body is None else vault.root.write(path, **body)
    assert answer.status == 204
    told = {f"{one.kind} {one.name}": one.state for one in vault.apply(dry_run=True)}
    assert told == {f"{one.kind} {one.name}": one.state for one in vault.apply()}, "a dry run says what is done"
    assert {name: state for name, state in told.items() if state != "unchanged"} == {
        what: "created" if body is None else "updated"
    }
    assert {change.state for change in vault.apply()} == {"unchanged"}


def test_a_secret_id_that_is_lost_or_no_longer_good_is_made_anew(vault: RunningVault) -> None:
    files = vault.credentials.files("agent-runner")
    first = files.secret_id_file.read_text()
    assert vault.root.write("auth/approle/role/agent-runner/secret-id/destroy", secret_id=first).status == 204
    assert [one.state for one in vault.apply() if one.name == "agent-runner" and one.kind == "credentials"] == [
        "updated"
    ]
    files.secret_id_file.unlink()
    assert [one.state for one in vault.apply() if one.name == "agent-runner" and one.kind == "credentials"] == [
        "created"
    ]
    assert vault.service("agent-runner").read("auth/token/lookup-self").status == 200
    assert files.secret_id_file.stat().st_mode & 0o777 == 0o600


def test_what_can_t_be_made_right_is_told(vault: RunningVault) -> None:
    key = "transit/keys/sluice-queue-loose"
    assert vault.root.write(key, type="aes256-gcm96", exportable=True).status == 200
    provisioning = Provisioning(vault.server.admin(), vault_table(["loose"]), credentials=None)
    with pytest.raises(ProvisioningFailed, match=r"sluice-queue-loose.*exportable"):
        provisioning.run()
    assert vault.root.write(f"{key}/config", deletion_allowed=True).status == 200
    assert vault.root.ask("DELETE", key).status == 204
    assert vault.root.ask("DELETE", "sys/policies/acl/sluice-queue-loose").status == 204
    vault.apply()


@pytest.mark.covers("D1", "U2")
def test_the_command_applies_to_a_given_vault(
    vault: RunningVault, given: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["vault", "apply", "--queue", "default", "--queue", "review", "--json"]
    assert run([*arguments, "--dry-run"]) == 0
    told = states(capsys.readouterr().out)
    assert not given.exists()
    assert run(arguments) == 0
    assert states(capsys.readouterr().out) == told
    assert {name: state for name, state in told.items() if state != "unchanged"} == {
        "audit device sluice": "left", "credentials vault-broker": "created", "credentials agent-runner": "created"
    }  # fmt: skip
    assert sorted(str(path.relative_to(given)) for path in given.rglob("*-id")) == [
        "agent-runner/role-id", "agent-runner/secret-id", "vault-broker/role-id", "vault-broker/secret-id"
    ]  # fmt: skip
    assert all(path.stat().st_mode & 0o077 == 0 for path in [given, *given.rglob("*")])
    assert run(arguments) == 0
    assert set(states(capsys.readouterr().out).values()) == {"unchanged", "left"}
    assert run(arguments[:-1]) == 0
    shown = capsys.readouterr().out
    assert "0 created, 0 updated" in shown
    assert vault.root.token not in shown


@pytest.mark.covers("V4", "U2")
def test_a_key_is_put_in_by_file_or_standard_input(
    vault: RunningVault, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    path = "secret/data/api-keys/openrouter-test"
    for state in ("created", "unchanged"):
        assert run(["vault", "put-key", "openrouter-test", "--from-file", str(file)]) == 0
        assert capsys.readouterr().out == f"{state} secret/api-keys/openrouter-test\n"
    file.write_text(KEY[:-1])
    assert run(["vault", "put-key", "openrouter-test", "--from-file", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "openrouter-test", "state": "updated"}
    assert vault.root.read(path).data["data"] == {"api_key": KEY[:-1]}
    for name, content, code in (("../agents/x", KEY, 2), ("openrouter", "", 2), ("openrouter", "x" * 20_000, 2)):
        file.write_text(content)
        assert run(["vault", "put-key", name, "--from-file", str(file)]) == code
    assert run(["vault", "put-key", "openrouter", "--from-file", str(tmp_path / "none")]) == 2
    assert KEY[:-1] not in capsys.readouterr().err
    assert vault.root.ask("DELETE", "secret/metadata/api-keys/openrouter-test").status == 204


def test_the_settings_of_a_given_vault_are_told_where_they_are_wrong(tmp_path: Path) -> None:
    assert external_vault({}) is None
    assert external_vault({"VAULT_ADDR": "", "VAULT_TOKEN_FILE": "/nowhere"}) is None
    url = {"VAULT_ADDR": "https://vault.example:8200/"}
    found = external_vault(url)
    assert found is not None
    assert found.address == VaultAddress("https://vault.example:8200")
    with pytest.raises(SettingInvalid, match="VAULT_TOKEN_FILE, or VAULT_ROLE_ID_FILE"):
        VaultClient(found).read("sys/mounts")
    (tmp_path / "empty").write_text("\n")
    for wrong in (
        {"VAULT_ADDR": "vault.example:8200"},
        {**url, "VAULT_TOKEN_FILE": str(tmp_path / "none")},
        {**url, "VAULT_TOKEN_FILE": str(tmp_path / "empty")},
        {**url, "VAULT_CACERT": str(tmp_path / "none")},
        {**url, "VAULT_ROLE_ID_FILE": str(tmp_path / "empty")},
    ):
        with pytest.raises(SettingInvalid):
            external_vault(wrong)


def test_a_given_vault_is_asked_as_whom_the_files_name(vault: RunningVault) -> None:
    files = vault.credentials.files(names.BROKER)
    settings = {
        "VAULT_ADDR": vault.url,
        "VAULT_ROLE_ID_FILE": str(files.role_id_file),
        "VAULT_SECRET_ID_FILE": str(files.secret_id_file),
        "VAULT_TOKEN": "of the environment: not read",
    }
    login = external_vault(settings)
    assert login is not None
    client = VaultClient(login)
    assert client.list("auth/token/accessors")
    with pytest.raises(LoginRefused):
        client.read("secret/data/api-keys/openrouter")
    given = ExternalVault(login)
    given.start()
    assert given.ready()
    assert [check.ok for check in given.doctor()] == [True, True]
    nobody = ExternalVault(VaultLogin(VaultAddress("http://127.0.0.1:1")))
    with pytest.raises(NotReady, match="VAULT_ADDR"):
        nobody.start()
    assert [check.ok for check in nobody.doctor()] == [False, True]
    with pytest.raises(LoginRefused):
        VaultClient(VaultLogin(vault.server.address, "no-token")).read("sys/mounts")


@pytest.mark.covers("D4")
def test_a_stack_starts_its_vault_before_its_services_and_restores_it(tmp_path: Path, vault: RunningVault) -> None:
    """With no service and no topic: what is asked is only that Vault is part of it."""
    stack = LocalStack(tmp_path, vault=vault_table(["default"]), environment={})
    with stack:
        assert stack.vault is not None
        assert stack.vault.ready()
        files = stack.vault_credentials.files(names.BROKER)
        login = VaultLogin(stack.vault.address, approle=files)
        assert VaultClient(login).list("auth/token/accessors")
        assert {check.name for check in stack.doctor()} >= {"vault", "vault program", "vault file modes"}
        assert all(check.ok for check in stack.doctor())
        assert files.secret_id_file.parent == tmp_path / "credentials" / "vault" / names.BROKER
        assert files.secret_id_file.stat().st_mode & 0o777 == 0o600
    assert stack.vault.pid is None


@pytest.mark.covers("D1")
def test_a_given_vault_that_is_new_is_opened_by_keys_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Docker Compose does it: somebody starts the Vault, the command initialises, unseals and fills it."""
    server = VaultServer(tmp_path / "vault", environment={})
    with server:
        server.stop()
        shutil.rmtree(server.directory / "raft")  # as if it had never been used
        configuration = server.directory / "vault.json"
        (server.directory / "raft").mkdir()
        argv = [str(program_path(cache_directory())), "server", f"-config={configuration}"]
        bare = subprocess.Popen(argv, cwd=server.directory, stderr=subprocess.DEVNULL)
    monkeypatch.setenv("VAULT_ADDR", server.address.url)
    monkeypatch.delenv("VAULT_TOKEN_FILE", raising=False)
    keys, credentials, audit = tmp_path / "keys", tmp_path / "credentials", tmp_path / "audit.log"
    arguments = ["vault", "apply", "--keys", str(keys), "--credentials", str(credentials), "--queue", "default"]
    arguments += ["--audit-file", str(audit), "--data", str(tmp_path / "none"), "--json"]
    try:
        client = VaultClient(VaultLogin(server.address))
        until(lambda: client.health() == "uninitialised")
        assert run(arguments) == 0
        assert set(states(capsys.readouterr().out).values()) == {"created"}
        assert (keys / "keys.json").stat().st_mode & 0o777 == 0o600
        assert audit.stat().st_mode & 0o777 == 0o600
        root = VaultClient(VaultLogin(server.address, KeyFile(keys).needed().root_token))
        root.seal()
        assert client.health() == "sealed"
        assert run(arguments) == 0, "and whenever it has been started again"
        assert set(states(capsys.readouterr().out).values()) == {"unchanged"}
        monkeypatch.delenv("VAULT_ADDR")
        assert run(arguments) == 2
    finally:
        bare.kill()
        bare.wait()


@pytest.mark.covers("D1")
def test_a_given_vault_is_reached_over_tls(vault: RunningVault, tmp_path: Path) -> None:
    with tls(vault.url, tmp_path) as (url, ca_file):
        token = tmp_path / "token"
        token.write_text(vault.root.token)
        settings = {"VAULT_ADDR": url, "VAULT_TOKEN_FILE": str(token), "VAULT_CACERT": str(ca_file)}
        login = external_vault(settings)
        assert login is not None
        assert VaultClient(login).list("auth/token/accessors")
        assert ExternalVault(login).ready()
        untrusted = external_vault({name: settings[name] for name in ("VAULT_ADDR", "VAULT_TOKEN_FILE")})
        assert untrusted is not None
        with pytest.raises(NotReady, match="VAULT_CACERT"):
            VaultClient(untrusted).list("sys/policies/acl")
        with pytest.raises(NotReady):
            ExternalVault(untrusted).start()
