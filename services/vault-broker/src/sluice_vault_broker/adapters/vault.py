"""Vault itself, behind the port `ports.Vault`. What it must hold stands in `sluice_runtime/vault`."""

from __future__ import annotations

import base64
import json
from dataclasses import fields
from typing import Any, TypeVar

from pydantic import SecretStr, TypeAdapter, ValidationError

from sluice_runtime.vault import names
from sluice_runtime.vault.client import NO_TOKEN, Connection
from sluice_runtime.vault.faults import NothingThere
from sluice_vault_broker.ports import Label, Minted, TokenUnknown, VaultAway, VaultRefused

WRAPPING_TTL = "60s"
"""A SecretID is fetched and used at once; between the two it is in a wrapping that opens once."""

T = TypeVar("T")

_LABEL = TypeAdapter(Label)
_LABELLED = tuple(one.name for one in fields(Label))

_ENTITIES = "identity/entity/id"


class VaultApi:
    """One installation's use of a Vault (`ports.Vault`).

    Args:
        connection: As the broker.
        installation: Written beside each token: several installations may share a Vault.
    """

    def __init__(self, connection: Connection, installation: str) -> None:
        self._connection = connection
        self._installation = installation
        self._role_id: str | None = None
        self._accessor: str | None = None

    # Entities

    def entities(self) -> list[str]:
        """See `ports.Vault.entities`."""
        try:
            answer = self._connection.ask("LIST", _ENTITIES)
        except NothingThere:
            return []
        rows = _find(answer, _ENTITIES, dict, "data", "key_info").values()
        aliases = [alias for row in rows for alias in _find(row, _ENTITIES, dict).get("aliases") or ()]
        # A Vault has one such mount.
        at_token = [alias for alias in aliases if _find(alias, _ENTITIES, str, "mount_type") == "token"]
        if at_token:
            self._accessor = _find(at_token[0], _ENTITIES, str, "mount_accessor")
        pipelines = (names.pipeline_of_alias(_find(alias, _ENTITIES, str, "name")) for alias in at_token)
        return [pipeline_id for pipeline_id in pipelines if pipeline_id is not None]

    def delete_entity(self, pipeline_id: str) -> None:
        """See `ports.Vault.delete_entity`: by the name that Vault gave it, since the right to do so is narrower."""
        if self._accessor is None:
            self.entities()
        if self._accessor is None:
            return  # no pipeline has one
        body = {"alias_name": names.pipeline_alias(pipeline_id), "alias_mount_accessor": self._accessor}
        found = self._connection.ask("POST", path := "identity/lookup/entity", body)
        if found:
            path = f"identity/entity/name/{_find(found, path, str, 'data', 'name')}"
            _check_done(self._connection.ask("DELETE", path), path)

    # Tokens

    def log_in(self, label: Label) -> Minted:
        """See `ports.Vault.log_in`: a SecretID for one login, unwrapped and used at once."""
        role = f"auth/approle/role/{names.ORCHESTRATOR}"
        if self._role_id is None:
            path = f"{role}/role-id"
            self._role_id = _find(self._connection.ask("GET", path), path, str, "data", "role_id")
        body = {"metadata": json.dumps(self._metadata(label))}
        wrapped = self._connection.ask("POST", path := f"{role}/secret-id", body, wrap_ttl=WRAPPING_TTL)
        wrapping = SecretStr(_find(wrapped, path, str, "wrap_info", "token"))
        opened = self._connection.ask_with(wrapping, "POST", path := "sys/wrapping/unwrap")
        body = {"role_id": self._role_id, "secret_id": _find(opened, path, str, "data", "secret_id")}
        try:
            return _minted(self._connection.ask_with(NO_TOKEN, "POST", path := "auth/approle/login", body), path)
        except VaultRefused:
            self._role_id = None  # the role may have been made anew
            raise

    def mint_root(self, login: SecretStr, label: Label, *, ttl_s: int, max_ttl_s: int) -> Minted:
        """See `ports.Vault.mint_root`: Vault makes the entity for an alias that is new."""
        body = self._body(label, ttl_s, max_ttl_s, parent=True) | {
            "entity_alias": names.pipeline_alias(label.pipeline_id)
        }
        path = f"auth/token/create/{names.PIPELINE_TOKEN_ROLE}"
        return _minted(self._connection.ask_with(login, "POST", path, body), path)

    def mint_child(
        self, parent: SecretStr, label: Label, *, ttl_s: int, max_ttl_s: int, may_have_agents: bool
    ) -> Minted:
        """See `ports.Vault.mint_child`."""
        body = self._body(label, ttl_s, max_ttl_s, parent=may_have_agents)
        return _minted(self._connection.ask_with(parent, "POST", path := "auth/token/create", body), path)

    def _body(self, label: Label, ttl_s: int, max_ttl_s: int, *, parent: bool) -> dict[str, Any]:
        return {
            "policies": [names.PIPELINE_POLICY, *([names.PARENT_POLICY] if parent else [])],
            "no_default_policy": True,
            "meta": self._metadata(label),
            "display_name": "sluice",
            "ttl": f"{ttl_s}s",
            "explicit_max_ttl": f"{max_ttl_s}s",
            "renewable": True,
            "type": "service",
        }

    def keep(self, pipeline_id: str, token: SecretStr) -> str:
        """See `ports.Vault.keep`."""
        return self._encrypt(names.BROKER_KEY, pipeline_id, token)

    def unkeep(self, pipeline_id: str, kept: str) -> SecretStr:
        """See `ports.Vault.unkeep`."""
        body = {"ciphertext": kept, "context": _base64(pipeline_id)}
        found = self._connection.ask("POST", path := f"{names.TRANSIT_MOUNT}/decrypt/{names.BROKER_KEY}", body)
        try:
            return SecretStr(base64.b64decode(_find(found, path, str, "data", "plaintext"), validate=True).decode())
        except ValueError:
            raise VaultAway(f"{path}: the answer is not in base64; see what answers there") from None

    def seal(self, queue: str, context: str, token: SecretStr) -> str:
        """See `ports.Vault.seal`."""
        return self._encrypt(names.queue_name(queue), context, token)

    def _encrypt(self, key: str, context: str, token: SecretStr) -> str:
        body = {"plaintext": _base64(token.get_secret_value()), "context": _base64(context)}
        found = self._connection.ask("POST", path := f"{names.TRANSIT_MOUNT}/encrypt/{key}", body)
        return _find(found, path, str, "data", "ciphertext")

    # By accessor

    def renew(self, accessor: str, ttl_s: int) -> int:
        """See `ports.Vault.renew`."""
        body = {"accessor": accessor, "increment": ttl_s}
        found = self._connection.ask("POST", path := "auth/token/renew-accessor", body)
        return _find(found, path, int, "auth", "lease_duration")

    def revoke(self, accessor: str) -> None:
        """See `ports.Vault.revoke`."""
        try:
            answer = self._connection.ask("POST", path := "auth/token/revoke-accessor", {"accessor": accessor})
        except TokenUnknown:
            return
        _check_done(answer, path)

    def accessors(self) -> list[str]:
        """See `ports.Vault.accessors`."""
        answer = self._connection.ask("LIST", path := "auth/token/accessors")
        return [_find(one, path, str) for one in _find(answer, path, list, "data", "keys")]

    def lookup(self, accessor: str) -> Label | None:
        """See `ports.Vault.lookup`."""
        answer = self._connection.ask("POST", path := "auth/token/lookup-accessor", {"accessor": accessor})
        _find(answer, path, str, "data", "accessor")  # of a token without metadata, too
        return self._label(_find(answer["data"].get("meta") or {}, path, dict))

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
        """What was written beside a token of ours.

        An agent that may have others can make tokens below its own, with any words; those end with it. What the
        contract would not let us say of a token is not taken from one.
        """
        if metadata.get("installation") != self._installation:
            return None
        try:
            label = _LABEL.validate_python({name: metadata[name] for name in _LABELLED if name in metadata})
        except ValidationError:
            return None
        return label if (label.agent_id is None) == (label.attempt is None) else None


def _find(answer: object, path: str, kind: type[T], *members: str) -> T:
    """A member of an answer of Vault.

    Raises:
        VaultAway: There is no such member: something else answered, such as a gateway with a page of its own.
    """
    for member in members:
        answer = answer.get(member) if isinstance(answer, dict) else None
    if not isinstance(answer, kind) or answer == "":
        what = ".".join(members) or "member"
        raise VaultAway(f"{path}: the answer is not Vault's, its {what} is no {kind.__name__}; see what answers there")
    return answer


def _check_done(answer: dict[str, Any], path: str) -> None:
    """Vault says nothing when it has done this, or has warnings, under the request's id.

    Raises:
        VaultAway: Something else answered.
    """
    if answer:
        _find(answer, path, str, "request_id")


def _minted(answer: dict[str, Any], path: str) -> Minted:
    auth = _find(answer, path, dict, "auth")
    policies = auth.get("token_policies") or auth.get("policies") or []
    return Minted(
        token=SecretStr(_find(auth, path, str, "client_token")),
        accessor=_find(auth, path, str, "accessor"),
        ttl_s=_find(auth, path, int, "lease_duration"),
        policies=tuple(_find(one, path, str) for one in _find(policies, path, list)),
    )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
