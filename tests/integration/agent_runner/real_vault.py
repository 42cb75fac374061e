"""A real Vault as the runner meets it: provisioned like an installation's, with grants as vault-broker seals them."""

from __future__ import annotations

import base64
import uuid
from pathlib import Path

import hvac

from sluice_agent_runner.adapters.vault import HvacVault, VaultAccess
from sluice_localstack import Provisioning, VaultCredentials, VaultServer, vault_table
from sluice_runtime.vault import names

QUEUES = ("q", "another")
WATCHED = 'path "auth/token/lookup-self" { capabilities = ["read"] }'


class RealVault:
    """A server of its own. Use it as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.server = VaultServer(directory / "vault", environment={})
        self.credentials = VaultCredentials(directory / "credentials" / "vault")

    def __enter__(self) -> RealVault:
        self.server.start()
        self.apply()
        self.root().sys.create_or_update_policy("watched", WATCHED)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def apply(self) -> None:
        Provisioning(
            self.server.admin(), vault_table(QUEUES),
            credentials=self.credentials, audit_path=self.server.audit_path,
        ).run()  # fmt: skip

    @property
    def url(self) -> str:
        return self.server.address.url

    def root(self) -> hvac.Client:
        return hvac.Client(url=self.url, token=self.server.keys.needed().root_token)

    def access(self, timeout_s: float = 5.0) -> VaultAccess:
        files = self.credentials.files(names.RUNNER)
        return VaultAccess(self.url, files.role_id_file, files.secret_id_file, timeout_s=timeout_s)

    def vault(self) -> HvacVault:
        return HvacVault(self.access())

    def grant(self, queue: str, context: str, ttl: str = "1h", *, watched: bool = True) -> tuple[str, str]:
        """Seals a new agent's token; returns the ciphertext and the token."""
        root, pipeline = self.root(), str(uuid.uuid4())
        policy = names.pipeline_policy_name(pipeline)
        root.sys.create_or_update_policy(policy, names.pipeline_policy(pipeline))
        policies = [policy, "watched"] if watched else [policy]
        token = root.auth.token.create(policies=policies, no_default_policy=True, ttl=ttl)["auth"]["client_token"]
        return self.seal(queue, context, token), token

    def seal(self, queue: str, context: str, plain: str) -> str:
        sealed = self.root().secrets.transit.encrypt_data(
            names.queue_name(queue),
            plaintext=base64.b64encode(plain.encode()).decode(),
            context=base64.b64encode(context.encode()).decode(),
        )
        return str(sealed["data"]["ciphertext"])

    def revoke(self, token: str) -> None:
        self.root().auth.token.revoke(token)

    def write_key(self, provider: str, **fields: str) -> None:
        self.root().secrets.kv.v2.create_or_update_secret(f"api-keys/{provider}", secret=fields)
