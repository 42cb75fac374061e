"""A real Vault as the runner meets it: provisioned like an installation's, with grants as vault-broker seals them."""

from __future__ import annotations

import base64
from pathlib import Path

import hvac

from sluice_agent_runner.adapters.vault import VaultApi
from sluice_localstack import Provisioning, VaultCredentials, VaultServer, vault_table
from sluice_runtime.vault import names
from sluice_runtime.vault.client import VaultPlace

QUEUES = ("q", "another")


class RealVault:
    """A server of its own. Use it as a context manager."""

    def __init__(self, directory: Path) -> None:
        self.server = VaultServer(directory / "vault", environment={})
        self.credentials = VaultCredentials(directory / "credentials" / "vault")

    def __enter__(self) -> RealVault:
        self.server.start()
        self.apply()
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

    def place(self) -> VaultPlace:
        files = self.credentials.files(names.RUNNER)
        return VaultPlace(self.url, files.role_id_file, files.secret_id_file)

    def vault(self) -> VaultApi:
        return VaultApi(self.place())

    def grant(
        self, queue: str, context: str, ttl: str = "1h", *, policy: str = names.PIPELINE_POLICY
    ) -> tuple[str, str]:
        """Seals a new agent's token; returns the ciphertext and the token."""
        made = self.root().auth.token.create(policies=[policy], no_default_policy=True, ttl=ttl)
        token = made["auth"]["client_token"]
        return self.seal(queue, context, token), token

    def grant_without_entity(self, queue: str, context: str) -> tuple[str, str]:
        """As `grant`, with the entity of a pipeline, which was deleted since."""
        root, pipeline_id = self.root(), context.partition("/")[0]
        made = root.auth.token.create(
            role_name=names.PIPELINE_TOKEN_ROLE, policies=[names.PIPELINE_POLICY], no_default_policy=True, ttl="1h",
            entity_alias=names.pipeline_alias(pipeline_id),
        )  # fmt: skip
        root.secrets.identity.delete_entity(made["auth"]["entity_id"])
        token = made["auth"]["client_token"]
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
