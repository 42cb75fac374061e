"""Role × path × capability: who may do what in Vault, written down apart from the policies that say so."""

from __future__ import annotations

import uuid

from sluice_runtime.vault import names

P1, P2 = str(uuid.uuid4()), str(uuid.uuid4())
CAPABILITIES = ("create", "read", "update", "delete", "list", "sudo", "patch")

BROKER, RUNNER, REVIEWER, NOBODY = "vault-broker", "agent-runner", "runner of one queue", "nobody"
LOGIN, PIPELINE, PARENT, AGENT = "login", "pipeline", "lead", "agent"
POLICIES: dict[str, tuple[str, ...]] = {
    BROKER: ("vault-broker",),
    RUNNER: ("agent-runner", "sluice-queue-default", "sluice-queue-review"),
    REVIEWER: ("agent-runner", "sluice-queue-review"),
    LOGIN: ("sluice-orchestrator",),
    PIPELINE: (names.PARENT_POLICY, names.PIPELINE_POLICY),
    PARENT: (names.PARENT_POLICY, names.PIPELINE_POLICY),
    AGENT: (names.PIPELINE_POLICY,),
    NOBODY: ("nobody",),
}
"""Two services, and a runner of one queue alone; of one pipeline the login by AppRole, the root token, and the tokens
of an agent that may have agents and of one that may not; and somebody with no right: other services have no login."""
WHO = tuple(POLICIES)

OF_ITSELF = {
    "auth/token/lookup-self": {"read"},
    "auth/token/renew-self": {"update"},
    "auth/token/revoke-self": {"update"},
}
OF_A_PIPELINE = {
    "auth/token/lookup-self": {"read"},
    "secret/data/api-keys/openrouter": {"read"},
    "secret/data/services/search": {"read"},
    f"secret/data/agents/{P1}/notes": {"create", "read", "update"},
    f"secret/data/agents/{P1}/deep/er": {"create", "read", "update"},
}
CHILDREN = {"auth/token/create": {"create", "update"}}
ALLOWED: dict[str, dict[str, set[str]]] = {
    BROKER: {
        f"auth/approle/role/{names.ORCHESTRATOR}/role-id": {"read"},
        f"auth/approle/role/{names.ORCHESTRATOR}/secret-id": {"create", "update"},
        "identity/entity/id": {"list"},
        "identity/lookup/entity": {"update"},
        "identity/entity/name/entity_0123abcd": {"delete"},
        "auth/token/accessors": {"list", "sudo"},
        "auth/token/lookup-accessor": {"update"},
        "auth/token/renew-accessor": {"update"},
        "auth/token/revoke-accessor": {"update"},
        "transit/encrypt/sluice-queue-default": {"update"},
        "transit/encrypt/sluice-queue-review": {"update"},
        "transit/encrypt/sluice-queue-none": {"update"},
        "transit/encrypt/sluice-broker": {"update"},
        "transit/decrypt/sluice-broker": {"update"},
        **OF_ITSELF,
    },
    RUNNER: {
        "transit/decrypt/sluice-queue-default": {"update"},
        "transit/decrypt/sluice-queue-review": {"update"},
        **OF_ITSELF,
    },
    REVIEWER: {"transit/decrypt/sluice-queue-review": {"update"}, **OF_ITSELF},
    LOGIN: {f"auth/token/create/{names.PIPELINE_TOKEN_ROLE}": {"create", "update"}},
    PIPELINE: {**OF_A_PIPELINE, **CHILDREN},
    PARENT: {**OF_A_PIPELINE, **CHILDREN},
    AGENT: OF_A_PIPELINE,
    NOBODY: {},
}
"""All that is allowed. Whatever else a caller may do, on any path of this module, is a fault."""

METHODS = ("GET", "LIST", "POST", "DELETE")
REFUSED = {403, 405}
"""No right; or no such request, which nobody may make."""
OPEN_TO_ALL = {"sys/internal/ui/mounts", "sys/generate-root/attempt", "sys/wrapping/lookup"}
"""Vault answers these to everybody, by no right of a token: they tell nothing without one, and change nothing."""

NOBODYS = (
    "sys/mounts", "sys/mounts/secret", "sys/auth", "sys/auth/approle", "sys/audit", "sys/audit/sluice", "sys/seal",
    "sys/policies/acl", "sys/policies/acl/vault-broker", "sys/policies/acl/sluice-orchestrator",
    "sys/policies/acl/root", "sys/policies/acl/pipeline-agent", f"sys/policies/acl/sluice-pipeline-{P1}",
    "sys/policy/pipeline-agent", "sys/policy", "sys/policies/password/x", "sys/remount", "sys/step-down",
    "sys/tools/random", "sys/quotas/rate-limit/x", "sys/raw/core", "sys/rotate", "sys/leases/revoke-prefix/auth",
    "sys/storage/raft/snapshot", "sys/config/auditing/request-headers", "sys/wrapping/lookup",
    "sys/capabilities-self", "sys/generate-root/attempt", "sys/internal/ui/mounts", "auth/approle/role",
    "auth/approle/role/vault-broker", "auth/approle/role/vault-broker/secret-id",
    "auth/approle/role/agent-runner/secret-id", f"auth/approle/role/{names.ORCHESTRATOR}",
    f"auth/approle/role/{names.ORCHESTRATOR}/policies", f"auth/approle/role/{names.ORCHESTRATOR}/custom-secret-id",
    "auth/token/create-orphan", "auth/token/roles/sluice-pipeline", "auth/token/revoke", "auth/token/revoke-orphan",
    "auth/token/lookup", "auth/token/renew", "auth/token/tidy", "auth/token/roles", "auth/token/create/other",
    "auth/approle/tidy/secret-id", f"auth/approle/role/{names.ORCHESTRATOR}/secret-id/lookup",
    f"auth/approle/role/{names.ORCHESTRATOR}/secret-id-accessor/destroy", "auth/token/create-orphan/x",
    "identity/entity", "identity/entity-alias", "identity/entity-alias/id", "identity/entity-alias/id/x",
    "identity/group", "identity/group/id", "identity/group-alias", "identity/lookup/group",
    f"identity/entity/id/{P1}", "identity/entity/merge", "identity/entity/name", "identity/entity/name/somebody",
    "identity/entity/name/entit", "identity/entity/batch-delete", "identity/oidc/key/x", "identity/oidc/token/x",
    "identity/mfa/method", "cubbyhole/x", "secret/config", "secret/data/other", "secret/data/agents/x",
    f"secret/data/agents/{P2}/notes", f"secret/data/agents/{P1}", f"secret/data/agents/{P1}x/notes",
    "secret/metadata/api-keys/openrouter", f"secret/metadata/agents/{P1}/notes", f"secret/delete/agents/{P1}/notes",
    f"secret/destroy/agents/{P1}/notes", "transit/keys", "transit/keys/sluice-queue-default",
    "transit/keys/sluice-queue-default/rotate", "transit/keys/sluice-queue-default/config",
    "transit/export/encryption-key/sluice-queue-default", "transit/backup/sluice-queue-default",
    "transit/rewrap/sluice-queue-default", "transit/datakey/plaintext/sluice-queue-default",
    "transit/decrypt/sluice-queue-none", "transit/encrypt/other", "transit/keys/sluice-broker",
    "transit/rewrap/sluice-broker", "transit/export/encryption-key/sluice-broker", "transit/sign/sluice-broker",
    "transit/hmac/sluice-queue-default", "transit/random", "transit/restore/x", "transit/trim/x",
)  # fmt: skip
"""What nobody may do anything with."""

PATHS = sorted({*NOBODYS, *(path for rows in ALLOWED.values() for path in rows)})
