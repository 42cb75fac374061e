"""What the tests of Vault share: a Vault with what the table says, and callers with the rights of each role."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import socket
import ssl
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sluice_localstack import Provisioning, VaultCredentials, VaultServer, vault_table
from sluice_localstack.vault.provision import Change
from sluice_runtime.vault import names

QUEUES = ("default", "review")


@dataclass(frozen=True)
class Answer:
    """What Vault answered."""

    status: int
    body: dict[str, Any]

    @property
    def auth(self) -> dict[str, Any]:
        assert self.status == 200, self
        return dict(self.body["auth"])

    @property
    def data(self) -> dict[str, Any]:
        assert self.status == 200, self
        return dict(self.body["data"])


@dataclass(frozen=True)
class Caller:
    """Somebody with a token, or without one; plain HTTP, so that no library stands between."""

    url: str
    token: str = ""

    def ask(self, method: str, path: str, body: Any = None, wrap_ttl: str | None = None) -> Answer:
        headers = {"X-Vault-Token": self.token, "X-Vault-Request": "true"}
        if wrap_ttl:
            headers["X-Vault-Wrap-TTL"] = wrap_ttl
        answer = requests.request(method, f"{self.url}/v1/{path}", json=body, headers=headers, timeout=20)
        return Answer(answer.status_code, answer.json() if answer.content else {})

    def read(self, path: str) -> Answer:
        return self.ask("GET", path)

    def write(self, path: str, **body: Any) -> Answer:
        return self.ask("POST", path, body)


class RunningVault:
    """A server that has what the table says."""

    def __init__(self, directory: Path) -> None:
        self.server = VaultServer(directory / "vault", environment={})
        self.credentials = VaultCredentials(directory / "credentials" / "vault")

    def apply(self, *, dry_run: bool = False) -> list[Change]:
        return Provisioning(
            self.server.admin(), vault_table(QUEUES),
            credentials=self.credentials, audit_path=self.server.audit_path, dry_run=dry_run,
        ).run()  # fmt: skip

    @property
    def url(self) -> str:
        return self.server.address.url

    @property
    def root(self) -> Caller:
        return Caller(self.url, self.server.keys.needed().root_token)

    def service(self, role: str) -> Caller:
        """A service that has logged in by its files."""
        found = self.credentials.read(role)
        assert found is not None
        return Caller(self.url, login(self.url, *found).auth["client_token"])

    def renewed(self, auth: dict[str, Any]) -> Caller:
        return Caller(self.url, auth["client_token"])

    # What vault-broker does, call by call (decision 0007)

    def orchestrator_login(self, pipeline: str, broker: Caller | None = None) -> dict[str, Any]:
        """A login for one pipeline: a SecretID in a wrapping that is good once, the login."""
        broker = broker or self.service(names.BROKER)
        role = f"auth/approle/role/{names.ORCHESTRATOR}"
        role_id = broker.read(f"{role}/role-id").data["role_id"]
        metadata = {"metadata": json.dumps({"pipeline_id": pipeline})}
        wrapped = broker.ask("POST", f"{role}/secret-id", metadata, wrap_ttl="60s")
        secret_id = Caller(self.url, wrapped.body["wrap_info"]["token"]).write("sys/wrapping/unwrap").data["secret_id"]
        return login(self.url, role_id, secret_id).auth

    def pipeline_token(self, pipeline: str, at: dict[str, Any] | None = None) -> dict[str, Any]:
        """A pipeline's root token, a child of the login, with an entity of the pipeline's own."""
        at = at or self.orchestrator_login(pipeline)
        made = Caller(self.url, at["client_token"]).write(
            f"auth/token/create/{names.PIPELINE_TOKEN_ROLE}",
            policies=[names.PIPELINE_POLICY, names.PARENT_POLICY], entity_alias=names.pipeline_alias(pipeline),
            meta={"pipeline_id": pipeline}, ttl="2h", display_name="pipeline",
        )  # fmt: skip
        return made.auth

    def agent_token(self, parent: dict[str, Any], pipeline: str, *, may_have_children: bool = False) -> dict[str, Any]:
        """An agent's token, a child of its parent's."""
        policies = [names.PIPELINE_POLICY, *([names.PARENT_POLICY] if may_have_children else [])]
        made = Caller(self.url, parent["client_token"]).write(
            "auth/token/create",
            policies=policies, no_default_policy=True, ttl="2h", type="service", display_name="agent",
            meta={"pipeline_id": pipeline, "agent_id": str(uuid.uuid4())},
        )  # fmt: skip
        return made.auth


def login(url: str, role_id: str, secret_id: str) -> Answer:
    """A login by AppRole."""
    return Caller(url).write("auth/approle/login", role_id=role_id, secret_id=secret_id)


@contextlib.contextmanager
def tls(url: str, directory: Path) -> Iterator[tuple[str, Path]]:
    """An address that passes on to a Vault, behind TLS; and the authority's file."""
    key_file, certificate_file = _certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    target = url.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while body := source.recv(65_536):
                sink.sendall(body)
            sink.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with contextlib.suppress(OSError):  # a client that does not trust us
                    inside = context.wrap_socket(plain, server_side=True)
                    outside = socket.create_connection((target[0], int(target[1])))
                    threading.Thread(target=copy, args=(inside, outside), daemon=True).start()
                    threading.Thread(target=copy, args=(outside, inside), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", certificate_file
    finally:
        listener.close()


def _certificate(directory: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "vault")])
    now = datetime.datetime.now(datetime.timezone.utc)
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).add_extension(loopback, critical=False)
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    key_file, certificate_file = directory / "key.pem", directory / "ca.pem"
    private = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file.write_bytes(key.private_bytes(*private))
    certificate_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    return key_file, certificate_file
