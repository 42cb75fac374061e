"""What a Vault shall hold, as the files say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice_localstack import ExternalVault, SettingInvalid, StartFailed, VaultAddress, VaultLogin, vault_table
from sluice_localstack.component import Check
from sluice_localstack.revival import RESTARTS_MAX_COUNT, Revival
from sluice_localstack.vault.external import given_audit_file
from sluice_localstack.vault.keys import KeyFile, Keys
from sluice_localstack.vault.table import seconds, with_audit_mode
from sluice_runtime.vault import names

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.covers("V1", "D1")
def test_the_role_of_pipelines_is_as_the_specification_says() -> None:
    table = vault_table(["default"])
    role = table.approle_roles[names.ORCHESTRATOR]
    assert role["token_ttl"] == 2 * 3_600
    assert role["token_explicit_max_ttl"] == table.token_roles["sluice-pipeline"]["token_explicit_max_ttl"] == 86_400
    assert table.token_roles["sluice-pipeline"]["allowed_policies"] == [names.PIPELINE_POLICY, names.PARENT_POLICY]
    assert table.token_roles["sluice-pipeline"]["allowed_policies_glob"] == []
    assert (role["token_type"], role["secret_id_num_uses"], role["secret_id_ttl"]) == ("service", 1, 60)
    assert vault_table([], "3d").approle_roles[names.ORCHESTRATOR]["token_explicit_max_ttl"] == 3 * 86_400
    for row in [*table.approle_roles.values(), *table.token_roles.values()]:
        assert row["token_type"] == "service", "batch tokens can't be revoked"
        assert row["token_no_default_policy"]


@pytest.mark.covers("V4", "D1")
def test_each_queue_has_a_key_and_a_policy_that_its_runners_have() -> None:
    table = vault_table(["review", "default", "default"])
    queues = ["sluice-queue-default", "sluice-queue-review"]
    assert list(table.transit_keys) == ["sluice-broker", *queues]
    for key in table.transit_keys.values():
        assert key == {"type": "aes256-gcm96", "derived": True, "exportable": False, "allow_plaintext_backup": False}
    assert table.approle_roles[names.RUNNER]["token_policies"] == ["agent-runner", *queues]
    assert set(queues) <= set(table.policies)
    assert table.approle_roles[names.BROKER]["token_policies"] == ["vault-broker"]
    assert table.services == (names.BROKER, names.RUNNER)
    assert all("service" not in row for row in table.approle_roles.values())


def test_a_role_names_only_policies_that_there_are() -> None:
    table = vault_table(["default"])
    for row in table.approle_roles.values():
        assert set(row["token_policies"]) <= set(table.policies)


@pytest.mark.parametrize("queue", ["Review", "a-", "a.", "a b"])
def test_a_queue_that_vault_could_not_keep_apart_is_refused(queue: str) -> None:
    with pytest.raises(SettingInvalid, match="lower case"):
        vault_table([queue])


@pytest.mark.covers("V7")
def test_the_audit_device_shows_accessors_and_can_be_read_by_a_group() -> None:
    table = vault_table(["default"])
    [(_, device)] = table.audit.items()
    assert device.options == {"mode": "0600", "hmac_accessor": "false", "elide_list_responses": "true"}
    [(_, readable)] = with_audit_mode(table, "0640").audit.items()
    assert readable.options == {**device.options, "mode": "0640"}
    with pytest.raises(SettingInvalid, match="no mode"):
        with_audit_mode(table, "rw-r-----")


@pytest.mark.covers("V7")
def test_a_given_vault_is_followed_where_its_audit_file_can_be_read(tmp_path: Path) -> None:
    login = VaultLogin(VaultAddress("http://127.0.0.1:1"))

    def check(environment: dict[str, str]) -> Check:
        return ExternalVault(login, given_audit_file(environment)).doctor()[1]

    told = check({})
    assert (told.ok, told.detail) == (True, "not followed: uses of Vault are not in the log")
    assert "VAULT_AUDIT_FILE" in told.next_step
    file = tmp_path / "audit.log"
    assert not check({"VAULT_AUDIT_FILE": str(file)}).ok
    file.touch()
    assert check({"VAULT_AUDIT_FILE": str(file)}) == Check("vault audit file", True, str(file))


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("30m", 1_800), ("2h", 7_200), ("1d", 86_400), ("0s", 0)])
def test_a_time_is_read(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "2", "h", "-1h", "1.5h", "2 h", "1w", "9999999999s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid, match="no time"):
        vault_table([], text)


@pytest.mark.covers("D1")
def test_deploy_leads_to_the_one_copy() -> None:
    for name in ("policies", "vault.yaml"):
        assert (ROOT / "deploy" / "vault" / name).resolve().is_relative_to(ROOT / "libs" / "runtime")
    shown = {path.stem for path in (ROOT / "deploy" / "vault" / "policies").glob("*.hcl")}
    assert shown == {"queue", *vault_table([]).policies}


def test_keys_are_written_once_and_privately(tmp_path: Path) -> None:
    file = KeyFile(tmp_path)
    assert file.read() is None
    file.begin()
    file.write(Keys("unseal", "root"))
    assert file.needed() == Keys("unseal", "root")
    assert "unseal" not in repr(file.needed())
    assert file.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        file.write(Keys("others", "root"))
    assert file.needed().unseal_key == "unseal"
    storage = tmp_path / "raft"
    storage.mkdir()
    file.drop_unfinished(storage)
    assert storage.exists(), "keys are there: nothing is thrown away"


def test_what_ends_too_often_is_not_started_for_ever() -> None:
    class Ends:
        name, pid, restarts = "vault", None, 0

        def restart(self) -> None:
            self.restarts += 1

    component = Ends()
    revival = Revival(component, Path("vault.log"))
    for _ in range(RESTARTS_MAX_COUNT):
        revival.look()
    with pytest.raises(StartFailed, match=r"Vault has ended 6 times.*vault\.log"):
        revival.look()
    assert component.restarts == RESTARTS_MAX_COUNT
