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

# What pipelines leave behind: entities, which Vault makes by itself, and names entity_<8 digits>. No right to write one:
# whoever may write entities or aliases can give a token the policies of somebody else's.
path "identity/entity/id" {
  capabilities = ["list"]
}
path "identity/lookup/entity" {
  capabilities       = ["update"]
  allowed_parameters = {
    "alias_name"           = []
    "alias_mount_accessor" = ["{token_accessor}"]
  }
}
path "identity/entity/name/entity_*" {
  capabilities = ["delete"]
}

# Tokens by their accessors: no token is needed to end or renew one.
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

# The pipelines' own tokens are kept sealed for the broker itself: children are made with them.
path "transit/encrypt/sluice-broker" {
  capabilities = ["update"]
}
path "transit/decrypt/sluice-broker" {
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
