# The service vault-broker: it makes, renews and ends the tokens of pipelines and agents, and can read no secret.

# A login for a pipeline: a SecretID that is good for one login, and comes in a wrapping only.
path "auth/approle/role/pipeline-orchestrator/role-id" {
  capabilities = ["read"]
}
path "auth/approle/role/pipeline-orchestrator/secret-id" {
  capabilities     = ["create", "update"]
  min_wrapping_ttl = "1s"
  max_wrapping_ttl = "120s"
}

# The pipelines' own policies. Vault can't limit what a policy says: see docs/decisions/0007-tokens-in-vault.md.
path "sys/policies/acl/sluice-pipeline-*" {
  capabilities = ["create", "read", "update", "delete"]
}
path "sys/policies/acl" {
  capabilities = ["list"]
}

# Tokens by their accessors: no token is needed to end one, and none is kept for it.
path "auth/token/accessors" {
  capabilities = ["list", "sudo"]
}
path "auth/token/lookup-accessor" {
  capabilities = ["update"]
}
path "auth/token/renew-accessor" {
  capabilities = ["update"]
}
path "auth/token/revoke-accessor" {
  capabilities = ["update"]
}

# Grants are sealed for the runners of a queue. Not "create": that would make a key for a queue that has none.
path "transit/encrypt/sluice-queue-*" {
  capabilities = ["update"]
}

# Its own token.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
