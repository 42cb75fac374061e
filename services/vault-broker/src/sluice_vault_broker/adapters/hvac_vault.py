"""Vault itself, behind the port `ports.Vault`. What it must hold stands in `sluice_runtime/vault`."""

from __future__ import annotations

import base64
import json
from typing import Any

from pydantic import SecretStr

from sluice_runtime.vault import names
from sluice_vault_broker.adapters.connection import Connection
from sluice_vault_broker.ports import Label, Minted, TokenUnknown, VaultRefused

WRAPPING_TTL = "60s"
"""A SecretID is fetched and used at once; between the two it is in a wrapping that opens once."""

_INVALID_TOKEN = "invalid token"  # noqa: S105 - a part of what Vault says about a call with a token that has ended
_POLICIES = "sys/policies/acl"
_PREFIX = names.pipeline_policy_name("00000000-0000-0000-0000-000000000000")[:-36]


class HvacVault:
    """One installation's use of a Vault (`ports.Vault`).

    Args:
        connection: As the broker.
        installation: Written beside each token and policy: several installations may share a Vault.
    """

    def __init__(self, connection: Connection, installation: str) -> None:
        self._connection = connection
        self._installation = installation
        self._mark = f"# installation: {json.dumps(installation)}\n"
        self._role_id: str | None = None

    # Policies

    def put_policy(self, pipeline_id: str) -> None:
        """See `ports.Vault.put_policy`."""
        body = {"policy": self._mark + names.pipeline_policy(pipeline_id)}
        self._connection.ask("POST", f"{_POLICIES}/{names.pipeline_policy_name(pipeline_id)}", body)

    def delete_policy(self, pipeline_id: str) -> None:
        """See `ports.Vault.delete_policy`."""
        self._connection.ask("DELETE", f"{_POLICIES}/{names.pipeline_policy_name(pipeline_id)}")

    def policies(self) -> list[str]:
        """See `ports.Vault.policies`."""
        found = self._connection.ask("LIST", _POLICIES)["data"]["keys"]
        return [name.removeprefix(_PREFIX) for name in found if name.startswith(_PREFIX)]

    def owns_policy(self, pipeline_id: str) -> bool:
        """See `ports.Vault.owns_policy`."""
        try:
            found = self._connection.ask("GET", f"{_POLICIES}/{names.pipeline_policy_name(pipeline_id)}")
        except VaultRefused:
            return False  # deleted meanwhile
        return str(found["data"]["policy"]).startswith(self._mark)

    # Tokens

    def log_in(self, label: Label) -> Minted:
        """See `ports.Vault.log_in`: a SecretID for one login, unwrapped and used at once."""
        role = f"auth/approle/role/{names.ORCHESTRATOR}"
        if self._role_id is None:
            self._role_id = str(self._connection.ask("GET", f"{role}/role-id")["data"]["role_id"])
        body = {"metadata": json.dumps(self._metadata(label))}
        wrapped = self._connection.ask("POST", f"{role}/secret-id", body, wrap_ttl=WRAPPING_TTL)
        wrapping = SecretStr(wrapped["wrap_info"]["token"])
        opened = self._connection.ask_with(wrapping, "POST", "sys/wrapping/unwrap")
        body = {"role_id": self._role_id, "secret_id": opened["data"]["secret_id"]}
        try:
            return _minted(self._connection.ask_with(SecretStr(""), "POST", "auth/approle/login", body))
        except VaultRefused:
            self._role_id = None  # the role may have been made anew
            raise

    def mint_root(self, login: SecretStr, label: Label, *, ttl_s: int, max_ttl_s: int) -> Minted:
        """See `ports.Vault.mint_root`."""
        path = f"auth/token/create/{names.PIPELINE_TOKEN_ROLE}"
        return self._create(path, login, label, ttl_s=ttl_s, max_ttl_s=max_ttl_s)

    def mint_child(self, parent: SecretStr, label: Label, *, ttl_s: int, max_ttl_s: int) -> Minted:
        """See `ports.Vault.mint_child`."""
        return self._create("auth/token/create", parent, label, ttl_s=ttl_s, max_ttl_s=max_ttl_s)

    def _create(self, path: str, parent: SecretStr, label: Label, *, ttl_s: int, max_ttl_s: int) -> Minted:
        body = {
            "policies": [names.pipeline_policy_name(label.pipeline_id), names.PARENT_POLICY],
            "no_default_policy": True,
            "meta": self._metadata(label),
            "display_name": "sluice",
            "ttl": f"{ttl_s}s",
            "explicit_max_ttl": f"{max_ttl_s}s",
            "renewable": True,
            "type": "service",
        }
        try:
            return _minted(self._connection.ask_with(parent, "POST", path, body))
        except VaultRefused as refused:
            if _INVALID_TOKEN not in str(refused):
                raise
            raise TokenUnknown(f"what a token was to be made with has ended: {refused}") from None

    def keep(self, pipeline_id: str, token: SecretStr) -> str:
        """See `ports.Vault.keep`."""
        return self._encrypt(names.BROKER_KEY, pipeline_id, token)

    def unkeep(self, pipeline_id: str, kept: str) -> SecretStr:
        """See `ports.Vault.unkeep`."""
        body = {"ciphertext": kept, "context": _base64(pipeline_id)}
        found = self._connection.ask("POST", f"{names.TRANSIT_MOUNT}/decrypt/{names.BROKER_KEY}", body)
        return SecretStr(base64.b64decode(found["data"]["plaintext"]).decode())

    def seal(self, queue: str, context: str, token: SecretStr) -> str:
        """See `ports.Vault.seal`."""
        return self._encrypt(names.queue_name(queue), context, token)

    def _encrypt(self, key: str, context: str, token: SecretStr) -> str:
        body = {"plaintext": _base64(token.get_secret_value()), "context": _base64(context)}
        found = self._connection.ask("POST", f"{names.TRANSIT_MOUNT}/encrypt/{key}", body)
        return str(found["data"]["ciphertext"])

    # By accessor

    def renew(self, accessor: str, ttl_s: int) -> int:
        """See `ports.Vault.renew`."""
        found = self._connection.ask("POST", "auth/token/renew-accessor", {"accessor": accessor, "increment": ttl_s})
        return int(found["auth"]["lease_duration"])

    def revoke(self, accessor: str) -> None:
        """See `ports.Vault.revoke`."""
        try:
            self._connection.ask("POST", "auth/token/revoke-accessor", {"accessor": accessor})
        except TokenUnknown:
            return

    def accessors(self) -> list[str]:
        """See `ports.Vault.accessors`."""
        return list(self._connection.ask("LIST", "auth/token/accessors")["data"]["keys"])

    def lookup(self, accessor: str) -> Label | None:
        """See `ports.Vault.lookup`."""
        found = self._connection.ask("POST", "auth/token/lookup-accessor", {"accessor": accessor})["data"]
        return self._label(found.get("meta") or {})

    def _metadata(self, label: Label) -> dict[str, str]:
        metadata = {
            "installation": self._installation,
            "tenant": label.tenant,
            "pipeline_id": label.pipeline_id,
            "number": str(label.number),
        }
        if label.agent_id is not None:
            metadata |= {"agent_id": label.agent_id, "attempt": str(label.attempt)}
        return metadata

    def _label(self, metadata: dict[str, Any]) -> Label | None:
        """What was written beside a token of ours; whoever has one can make another below it, with any words."""
        if metadata.get("installation") != self._installation:
            return None
        try:
            return Label(
                tenant=metadata["tenant"],
                pipeline_id=metadata["pipeline_id"],
                number=int(metadata["number"]),
                agent_id=metadata.get("agent_id"),
                attempt=int(metadata["attempt"]) if "attempt" in metadata else None,
            )
        except (KeyError, ValueError):
            return None


def _minted(answer: dict[str, Any]) -> Minted:
    auth = answer["auth"]
    return Minted(
        token=SecretStr(auth["client_token"]),
        accessor=auth["accessor"],
        ttl_s=int(auth["lease_duration"]),
        policies=tuple(auth.get("token_policies") or auth.get("policies") or ()),
    )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
