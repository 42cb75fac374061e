"""What the vault-broker does in Vault, made bare with hvac: the same calls, with the same rights, and nothing else.

Whoever changes which calls the broker makes (`sluice_vault_broker.adapters.acts`) changes them here, too.
"""

from __future__ import annotations

import base64
import threading
from dataclasses import dataclass
from typing import Any

import hvac

from benchmarks.installation import Installation
from sluice_runtime.vault import names

QUEUE, AGENT = "default", "a0"
_TTL_S, _MAX_TTL_S = 7_200, 86_400


@dataclass(frozen=True, slots=True)
class BareGrant:
    """A pipeline's tokens, and one agent's below them.

    Attributes:
        top: The login's accessor: ending it ends all.
        kept: The root token, sealed for the broker.
        sealed: The agent's token, sealed for its queue's runners.
    """

    top: str
    root: str
    kept: str
    agent: str
    sealed: str


class BareVault:
    """Vault as the broker, for one thread."""

    def __init__(self, installation: Installation) -> None:
        self._client = installation.vault_client(names.BROKER)
        self._own = self._client.token
        self._mount: str | None = None
        self._role_id: str = self._client.auth.approle.read_role_id(names.ORCHESTRATOR)["data"]["role_id"]

    def mint(self, pipeline_id: str) -> BareGrant:
        """All that a pipeline's first agent needs: eight calls."""
        client = self._as(self._own)
        wrapped = client.auth.approle.generate_secret_id(
            names.ORCHESTRATOR, metadata=_meta(pipeline_id), wrap_ttl="60s"
        )
        secret_id = self._as(wrapped["wrap_info"]["token"]).sys.unwrap()["data"]["secret_id"]
        login = self._as("").auth.approle.login(self._role_id, secret_id, use_token=False)["auth"]
        root = self._create(login["client_token"], pipeline_id, names.PIPELINE_TOKEN_ROLE)
        kept = self._encrypt(names.BROKER_KEY, pipeline_id, root["client_token"])
        agent, sealed = self.mint_next(pipeline_id, kept)
        return BareGrant(login["accessor"], root["accessor"], kept, agent, sealed)

    def mint_next(self, pipeline_id: str, kept: str) -> tuple[str, str]:
        """What each further agent needs that may have none itself: three calls. Returns its accessor, and it sealed."""
        opened = self._as(self._own).secrets.transit.decrypt_data(
            names.BROKER_KEY, kept, context=_base64(pipeline_id), mount_point=names.TRANSIT_MOUNT
        )
        parent = base64.b64decode(opened["data"]["plaintext"]).decode()
        child = self._create(parent, pipeline_id, None)
        context = names.grant_context(pipeline_id, AGENT, 1)
        sealed = self._encrypt(names.queue_name(QUEUE), context, child["client_token"])
        return child["accessor"], sealed

    def renew(self, accessor: str) -> None:
        """Renews one token."""
        self._as(self._own).auth.token.renew_accessor(accessor, increment=f"{_TTL_S}s")

    def revoke(self, top: str) -> None:
        """Ends a pipeline's tokens: one call."""
        self._as(self._own).auth.token.revoke_accessor(top)

    def forget(self, pipeline_id: str) -> None:
        """Takes away what a pipeline leaves behind in Vault once its tokens have ended."""
        client = self._as(self._own)
        if self._mount is None:  # there is one such mount in a Vault
            rows = client.list("identity/entity/id")["data"]["key_info"].values()
            aliases = [alias for row in rows for alias in row["aliases"] if alias["mount_type"] == "token"]
            self._mount = aliases[0]["mount_accessor"]
        alias = {"alias_name": names.pipeline_alias(pipeline_id), "alias_mount_accessor": self._mount}
        entity = client.write_data("identity/lookup/entity", data=alias)["data"]
        client.delete(f"identity/entity/name/{entity['name']}")

    def _create(self, parent: str, pipeline_id: str, role: str | None) -> dict[str, Any]:
        path = f"auth/token/create/{role}" if role else "auth/token/create"
        # Not hvac's own method: that names parameters which the policy `sluice-parent` does not allow.
        body: dict[str, Any] = {
            "policies": [names.PIPELINE_POLICY], "no_default_policy": True, "meta": _meta(pipeline_id),
            "display_name": "sluice", "ttl": f"{_TTL_S}s", "explicit_max_ttl": f"{_MAX_TTL_S}s", "renewable": True,
            "type": "service",
        }  # fmt: skip
        if role:
            body["policies"].append(names.PARENT_POLICY)
            body["entity_alias"] = names.pipeline_alias(pipeline_id)
        answer = self._as(parent).write_data(path, data=body)
        found: dict[str, Any] = answer["auth"]
        return found

    def _encrypt(self, key: str, context: str, token: str) -> str:
        answer = self._as(self._own).secrets.transit.encrypt_data(
            key, _base64(token), context=_base64(context), mount_point=names.TRANSIT_MOUNT
        )
        return str(answer["data"]["ciphertext"])

    def _as(self, token: str) -> hvac.Client:
        self._client.token = token
        return self._client


def open_grant(runner: hvac.Client, pipeline_id: str, agent_id: str, attempt: int, sealed: str) -> str:
    """The token of a grant, as its runner opens it: one call."""
    context = _base64(names.grant_context(pipeline_id, agent_id, attempt))
    opened = runner.secrets.transit.decrypt_data(
        names.queue_name(QUEUE), sealed, context=context, mount_point=names.TRANSIT_MOUNT
    )
    return base64.b64decode(opened["data"]["plaintext"]).decode()


class BareVaults:
    """A `BareVault` for each thread that asks."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._local = threading.local()

    @property
    def mine(self) -> BareVault:
        """This thread's."""
        found: BareVault | None = getattr(self._local, "vault", None)
        if found is None:
            found = self._local.vault = BareVault(self._installation)
        return found


def _meta(pipeline_id: str) -> dict[str, str]:
    return {"installation": "bare", "tenant": "bench", "pipeline_id": pipeline_id, "number": "1"}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
