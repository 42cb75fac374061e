# Template of a pipeline's own policy (V2), for the pipeline's root token and its agents' tokens. vault-broker renders it
# as sluice-pipeline-<id> when it makes the pipeline's first token.
path "secret/data/api-keys/*" {
  capabilities = ["read"]
}
path "secret/data/services/*" {
  capabilities = ["read"]
}
path "secret/data/agents/{pipeline_id}/*" {
  capabilities = ["create", "read", "update"]
}
# Whether it still lives: a runner asks now and then, so that a revoked agent stops.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "sys/*" {
  capabilities = ["deny"]
}
