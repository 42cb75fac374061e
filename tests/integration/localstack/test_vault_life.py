"""A Vault's starts, stops and deaths: what stays, what goes, what is sealed, and where its keys stand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sluice_localstack import DirectoryInUse, SettingInvalid, StartFailed, VaultServer
from sluice_localstack.processes import Records
from sluice_localstack.vault.build import program_path
from tests.integration.localstack.tools import runs, until
from tests.integration.localstack.vault import RunningVault, login

PATH = "secret/data/agents/x/kept"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningVault]:
    """One for the tests that stop, kill and seal; each finds it running and leaves it so."""
    running = RunningVault(tmp_path_factory.mktemp("own"))
    with running.server:
        running.apply()
        yield running


def say(vault: RunningVault, value: str) -> None:
    assert vault.root.write(PATH, data={"value": value}).status == 200


def kept(vault: RunningVault) -> str:
    return str(vault.root.read(PATH).data["data"]["value"])


def unchanged(vault: RunningVault) -> bool:
    return {change.state for change in vault.apply()} == {"unchanged"}


@pytest.mark.covers("D4")
def test_a_killed_vault_comes_back_unsealed_with_all_it_had(own: RunningVault) -> None:
    url, first = own.url, own.server.pid
    broker = own.service("vault-broker")
    for number in range(3):
        say(own, f"before kill {number}")
        own.server.kill()
        assert own.server.pid is None
        assert not own.server.ready()
        own.server.restart()
        assert own.server.ready()
        assert kept(own) == f"before kill {number}"
    assert own.url == url
    assert own.server.pid != first
    assert broker.read("auth/token/lookup-self").status == 200, "tokens outlive it too"
    assert unchanged(own)


def test_a_stop_keeps_data_and_a_taken_port_is_changed(own: RunningVault) -> None:
    say(own, "before stop")
    before = own.url
    own.server.stop()
    assert own.server.pid is None
    assert all(check.ok for check in own.server.doctor())
    with socket.create_server(("127.0.0.1", int(before.rpartition(":")[2]))):
        assert [check.name for check in own.server.doctor() if check.next_step] == ["vault ports"]
        own.server.start()
    assert own.url != before
    assert kept(own) == "before stop"


@pytest.mark.covers("D4")
def test_a_sealed_vault_stays_sealed_until_somebody_unseals_it(own: RunningVault) -> None:
    own.server.seal()
    assert not own.server.ready()
    assert own.root.read(PATH).status == 503
    check = next(check for check in own.server.doctor() if check.name == "vault")
    assert (check.ok, "sealed" in check.detail) == (False, True)
    own.server.unseal()
    assert own.server.ready()
    assert unchanged(own)
    own.server.seal()
    own.server.restart()
    assert own.server.ready(), "a new start unseals"


def test_a_frozen_vault_is_not_ready(own: RunningVault) -> None:
    own.server.kill(signal.SIGSTOP)
    try:
        assert not own.server.ready()
    finally:
        own.server.kill(signal.SIGCONT)
    until(own.server.ready)


@pytest.mark.covers("V4", "D2")
def test_keys_stand_in_one_private_file_and_nowhere_else(own: RunningVault) -> None:
    keys = own.server.keys.needed()
    canary = "canary-that-is-a-secret"
    say(own, canary)
    token = own.service("agent-runner").token
    role_id, secret_id = own.credentials.read("agent-runner") or ("", "")
    assert kept(own) == canary
    own.server.restart()
    secrets = [keys.unseal_key, keys.root_token, canary, token, secret_id]
    holders = {own.server.keys.path: [keys.unseal_key, keys.root_token]}
    holders[own.credentials.files("agent-runner").secret_id_file] = [secret_id]
    directory = own.server.directory.parent
    for path in directory.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        private = directory / "credentials" not in (path, path.parent) or path.is_file()
        assert mode & 0o077 == 0 or not private, path
        if path.is_file():
            body = path.read_bytes()
            assert [one for one in secrets if one.encode() in body and one not in holders.get(path, [])] == [], path
    assert stat.S_IMODE(own.server.keys.path.stat().st_mode) == 0o600
    audit = own.server.audit_file.read_text()
    assert PATH in audit, "every request is there"
    assert "hmac-sha256:" in audit
    process = psutil.Process(own.server.pid or 0)
    seen = "\n".join([*process.cmdline(), *process.environ().values()])
    assert [one for one in [*secrets, role_id] if one in seen] == []
    assert "VAULT" not in " ".join(name for name in process.environ() if not name.startswith("SLUICE_LOCALSTACK"))


@pytest.mark.covers("V7")
def test_a_large_audit_file_gives_way_to_a_new_one(own: RunningVault) -> None:
    say(own, "before")
    own.server.bound_audit(max_bytes=1)
    until(lambda: own.server.audit_file.exists())
    old = own.server.audit_file.with_name("audit.log.1")
    size = old.stat().st_size
    own.root.read("secret/data/after")
    until(lambda: "secret/data/after" in own.server.audit_file.read_text())
    assert (old.stat().st_size, stat.S_IMODE(own.server.audit_file.stat().st_mode)) == (size, 0o600)
    assert own.root.read(PATH).status == 200


def test_one_process_at_a_time_and_others_beside_it(own: RunningVault, vault: RunningVault) -> None:
    with pytest.raises(DirectoryInUse):
        VaultServer(own.server.directory, environment={}).start()
    assert vault.url != own.url
    assert own.root.read(PATH).status == 200
    assert vault.renewed({"client_token": own.root.token}).read(PATH).status == 403
    role_id, secret_id = own.credentials.read("agent-runner") or ("", "")
    assert login(vault.url, role_id, secret_id).status == 400


@pytest.mark.covers("D4")
def test_a_copied_directory_is_a_vault_of_its_own(own: RunningVault, tmp_path: Path) -> None:
    say(own, "copied")
    own.server.stop()
    shutil.copytree(own.server.directory, tmp_path / "vault")
    own.server.start()
    say(own, "after the copy")
    with VaultServer(tmp_path / "vault", environment={}) as copy:
        found = copy.admin().read(PATH)
        assert found is not None
        assert found["data"]["data"] == {"value": "copied"}
        assert "copied-only" not in own.server.audit_file.read_text()
        copy.admin().read("secret/data/copied-only")
        assert "copied-only" in copy.audit_file.read_text()
        assert "copied-only" not in own.server.audit_file.read_text()


def test_what_a_killed_supervisor_left_is_ended_by_the_next_start(own: RunningVault) -> None:
    """As the next process finds it: the old one runs, and nobody holds the lock."""
    first = own.server.pid
    assert first is not None
    say(own, "left behind")
    own.server._lock.release()
    assert [process.pid for process in Records(own.server.directory).leftovers()] == [first]
    assert [check.ok for check in own.server.doctor() if check.name == "stale vault"] == [False]
    own.server = VaultServer(own.server.directory, environment={})
    own.server.start()
    assert not runs(first)
    assert kept(own) == "left behind"


@pytest.mark.covers("D4")
def test_an_initialisation_that_was_killed_is_done_again(tmp_path: Path) -> None:
    """The Vault has made its keys, and nobody has written them down: nothing can be in it yet."""
    lost = VaultServer(tmp_path, environment={})
    write = lost.keys.write

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    lost.keys.write = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        lost.start()
    assert lost.pid is None
    assert lost.keys.read() is None
    lost.keys.write = write  # type: ignore[method-assign]
    with lost:
        assert lost.ready()
        assert lost.admin().read("sys/mounts") is not None


def test_lost_keys_are_told_and_nothing_is_thrown_away(tmp_path: Path) -> None:
    server = VaultServer(tmp_path, environment={})
    with server:
        server.admin().write("sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})
    text = server.keys.path.read_text()
    server.keys.path.unlink()
    with pytest.raises(SettingInvalid, match=r"keys\.json is missing.*restore"):
        server.start()
    server.keys.path.write_text(json.dumps({**json.loads(text), "unseal_key": "bm90IHRoZSBrZXk="}))
    with pytest.raises(Exception, match="unseal"):
        server.start()
    assert server.pid is None
    server.keys.path.write_text(text)
    os.chmod(server.keys.path, 0o600)
    with server:
        assert "secret/" in (server.admin().read("sys/mounts") or {})["data"]


def test_a_program_that_is_given_is_run_instead(tmp_path: Path, own: RunningVault) -> None:
    from sluice_localstack import cache_directory

    program = program_path(cache_directory())
    with VaultServer(tmp_path / "a", environment={"SLUICE_VAULT_BINARY": str(program)}) as given:
        assert given.ready()
        assert [check.detail for check in given.doctor() if check.name == "vault program"] == [
            f"{program}, by SLUICE_VAULT_BINARY"
        ]
    with pytest.raises(SettingInvalid, match="SLUICE_VAULT_BINARY"):
        VaultServer(tmp_path / "b", environment={"SLUICE_VAULT_BINARY": "/nowhere/vault"}).start()
    with pytest.raises(StartFailed, match="ended with code"):
        VaultServer(tmp_path / "c", environment={"SLUICE_VAULT_BINARY": "false"}).start()
