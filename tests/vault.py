"""Vaults for tests: the double with virtual time and faults, and a real one, which the local stack starts.

`MemoryVault` knows what Vault's tokens do as far as the broker is concerned: trees, times to live, explicit maxima,
policies no wider than the parent's, sealing bound to a key and a context. Its tokens begin with `CANARY`, so that one
that leaks anywhere is found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from sluice_localstack import VaultClient, VaultServer
from sluice_localstack.vault.credentials import VaultCredentials
from sluice_localstack.vault.provision import Provisioning
from sluice_localstack.vault.table import vault_table
from sluice_runtime.clock import Clock
from sluice_runtime.vault import names
from sluice_runtime.vault.client import Connection, VaultPlace
from sluice_vault_broker.adapters.vault import VaultApi
from sluice_vault_broker.ports import Label, Minted, TokenUnknown, VaultAway, VaultRefused

CANARY = "hvs.CANARY"
LOGIN_TTL_S = 7_200


@dataclass(slots=True)
class Token:
    """A token as the double keeps it."""

    secret: str
    accessor: str
    installation: str
    label: Label
    entity_id: str
    parent: str | None
    policies: tuple[str, ...]
    expires_at_ms: int
    ends_at_ms: int


@dataclass(slots=True)
class MemoryStore:
    """What is in one Vault, whoever asks.

    Attributes:
        tokens: By accessor; those that have ended are gone.
        made: Every token that was ever made, by accessor.
        revoked: Accessors that were ended by a call, with when; their subtrees, too.
        entities: The living ones' ids, by pipeline.
        unfinished: Accessors without a token, as Vault may leave them when a caller dies; it refuses to look them up.
        stuck: Calls that are never answered, though others are: name and accessor, or name and "" for all.
        fault: Asked before and after each call, with its name; raises what the call shall raise.
    """

    clock: Clock
    tokens: dict[str, Token] = field(default_factory=dict)
    made: dict[str, Token] = field(default_factory=dict)
    revoked: dict[str, int] = field(default_factory=dict)
    entities: dict[str, str] = field(default_factory=dict)
    sealed: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    stuck: set[tuple[str, str]] = field(default_factory=set)
    fault: Callable[[str, bool], None] = lambda name, after: None
    unfinished: list[str] = field(default_factory=list)
    count: int = 0

    def now_ms(self) -> int:
        return self.clock.now_ms()

    def expire(self) -> None:
        """Ends what its time has come for."""
        for accessor in [one for one, token in self.tokens.items() if self.now_ms() >= token.expires_at_ms]:
            self.end(accessor)

    def end(self, accessor: str) -> None:
        token = self.tokens.pop(accessor, None)
        if token is not None:
            for child in [one.accessor for one in self.tokens.values() if one.parent == accessor]:
                self.end(child)

    def lives(self, token: SecretStr) -> Token | None:
        self.expire()
        return next((one for one in self.tokens.values() if one.secret == token.get_secret_value()), None)

    def honoured(self) -> set[str]:
        """The tokens that open anything: one without its entity does not."""
        self.expire()
        entities = set(self.entities.values())
        return {one.accessor for one in self.tokens.values() if one.entity_id in entities}


class MemoryVault:
    """One installation's use of a Vault in memory (`ports.Vault`)."""

    def __init__(
        self, store: MemoryStore, installation: str, *, queues: frozenset[str] = frozenset({"default"})
    ) -> None:
        self.store = store
        self._installation = installation
        self._queues = queues

    # Entities

    def entities(self) -> list[str]:
        with _Call(self.store, "entities"):
            return list(self.store.entities)

    def delete_entity(self, pipeline_id: str) -> None:
        with _Call(self.store, "delete_entity"):
            self.store.entities.pop(pipeline_id, None)

    # Tokens

    def log_in(self, label: Label) -> Minted:
        with _Call(self.store, "log_in"):
            return self._make(label, "", None, ("orchestrator",), LOGIN_TTL_S, 86_400)

    def mint_root(self, login: SecretStr, label: Label, *, ttl_s: int, max_ttl_s: int) -> Minted:
        with _Call(self.store, "mint_root"):
            above = self._asking("mint_root", login, "orchestrator")
            entity_id = self.store.entities.setdefault(label.pipeline_id, f"entity-{self.store.count + 1}")
            policies = (names.PIPELINE_POLICY, names.PARENT_POLICY)
            return self._make(label, entity_id, above.accessor, policies, ttl_s, max_ttl_s)

    def mint_child(
        self, parent: SecretStr, label: Label, *, ttl_s: int, max_ttl_s: int, may_have_agents: bool
    ) -> Minted:
        with _Call(self.store, "mint_child"):
            above = self._asking("mint_child", parent, names.PARENT_POLICY)
            policies = (names.PIPELINE_POLICY, *([names.PARENT_POLICY] if may_have_agents else []))
            return self._make(label, above.entity_id, above.accessor, policies, ttl_s, max_ttl_s)

    def _asking(self, name: str, token: SecretStr, policy: str) -> Token:
        above = self.store.lives(token)
        if above is None:
            raise TokenUnknown(f"{name}: what it was to be made with has ended")
        if policy not in above.policies or (above.entity_id and above.entity_id not in self.store.entities.values()):
            raise VaultRefused(f"{name}: permission denied")
        return above

    def _make(
        self,
        label: Label,
        entity_id: str,
        parent: str | None,
        policies: tuple[str, ...],
        ttl_s: int,
        max_ttl_s: int,
    ) -> Minted:
        store = self.store
        store.count += 1
        now_ms, ttl_s = store.now_ms(), min(ttl_s, max_ttl_s)
        accessor = f"accessor-{store.count}"
        token = Token(
            f"{CANARY}{store.count}", accessor, self._installation, label, entity_id, parent, policies,
            now_ms + ttl_s * 1_000, now_ms + max_ttl_s * 1_000,
        )  # fmt: skip
        store.tokens[accessor] = store.made[accessor] = token
        return Minted(SecretStr(token.secret), accessor, ttl_s, policies)

    def keep(self, pipeline_id: str, token: SecretStr) -> str:
        with _Call(self.store, "keep"):
            return self._seal("broker", pipeline_id, token)

    def unkeep(self, pipeline_id: str, kept: str) -> SecretStr:
        with _Call(self.store, "unkeep"):
            key, context, secret = self.store.sealed.get(kept, ("", "", ""))
            if (key, context) != ("broker", pipeline_id):
                raise VaultRefused("unkeep: it was sealed with another context")
            return SecretStr(secret)

    def seal(self, queue: str, context: str, token: SecretStr) -> str:
        with _Call(self.store, "seal"):
            if queue not in self._queues:
                raise VaultRefused(f"seal: queue {queue} has no key")
            return self._seal(f"queue-{queue}", context, token)

    def _seal(self, key: str, context: str, token: SecretStr) -> str:
        sealed = f"vault:v1:{len(self.store.sealed)}"
        self.store.sealed[sealed] = (key, context, token.get_secret_value())
        return sealed

    # By accessor

    def renew(self, accessor: str, ttl_s: int) -> int:
        with _Call(self.store, "renew", accessor):
            token = self._known(accessor)
            now_ms = self.store.now_ms()
            token.expires_at_ms = max(token.expires_at_ms, min(now_ms + ttl_s * 1_000, token.ends_at_ms))
            return (token.expires_at_ms - now_ms) // 1_000

    def revoke(self, accessor: str) -> None:
        with _Call(self.store, "revoke", accessor):
            self.store.end(accessor)
            self.store.revoked[accessor] = self.store.now_ms()

    def accessors(self) -> list[str]:
        with _Call(self.store, "accessors"):
            self.store.expire()
            return [*self.store.tokens, *self.store.unfinished]

    def lookup(self, accessor: str) -> Label | None:
        with _Call(self.store, "lookup", accessor):
            if accessor in self.store.unfinished:
                raise VaultRefused("lookup: permission denied")
            token = self._known(accessor)
            return token.label if token.installation == self._installation else None

    def _known(self, accessor: str) -> Token:
        self.store.expire()
        if accessor not in self.store.tokens:
            raise TokenUnknown(f"invalid accessor {accessor}")
        return self.store.tokens[accessor]


class _Call:
    """One call: a fault may strike before it, or after it, when it has happened and nobody hears of it."""

    def __init__(self, store: MemoryStore, name: str, accessor: str = "") -> None:
        self._store, self._name, self._accessor = store, name, accessor

    def __enter__(self) -> None:
        self._store.calls.append(self._name)
        if not self._store.stuck.isdisjoint({(self._name, ""), (self._name, self._accessor)}):
            raise VaultAway(f"{self._name} {self._accessor}: 500")
        self._store.fault(self._name, False)
        self._store.expire()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._store.fault(self._name, True)


def away(name: str, after: bool) -> None:
    """A fault: Vault is away."""
    if not after:
        raise VaultAway(f"{name}: away")


@dataclass(frozen=True)
class RealVault:
    """A Vault of the local stack, with all that Sluice needs of it."""

    server: VaultServer
    credentials: VaultCredentials

    @property
    def admin(self) -> VaultClient:
        return self.server.admin()

    def place(self, **more: float) -> VaultPlace:
        files = self.credentials.files(names.BROKER)
        return VaultPlace(self.server.address.url, files.role_id_file, files.secret_id_file, **more)  # type: ignore[arg-type]

    def connect(self, installation: str) -> VaultApi:
        return VaultApi(Connection(self.place()), installation)

    def environment(self) -> Mapping[str, str]:
        """What the broker's process is told."""
        files = self.credentials.files(names.BROKER)
        return {
            "SLUICE_VAULT_ADDR": self.server.address.url,
            "SLUICE_VAULT_ROLE_ID_FILE": str(files.role_id_file),
            "SLUICE_VAULT_SECRET_ID_FILE": str(files.secret_id_file),
        }


def provisioned(server: VaultServer, directory: Path, queues: tuple[str, ...] = ("default", "q")) -> RealVault:
    """Brings a Vault that runs to what Sluice needs of it."""
    credentials = VaultCredentials(directory)
    table = vault_table(queues)
    Provisioning(server.admin(), table, credentials=credentials, audit_path=server.audit_path).run()
    return RealVault(server, credentials)
