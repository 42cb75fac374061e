# Of every token of every pipeline (V2): the pipeline's root token and its agents'. Which pipeline it is, is said by the
# token's entity: one for each pipeline, with one alias at the mount token/, named by the pipeline (names.pipeline_alias).
path "secret/data/api-keys/*" {
  capabilities = ["read"]
}
path "secret/data/services/*" {
  capabilities = ["read"]
}
path "secret/data/agents/{{identity.entity.aliases.{token_accessor}.name}}/*" {
  capabilities = ["create", "read", "update"]
}
# Whether it still lives: a runner asks now and then, so that a revoked agent stops.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "sys/*" {
  capabilities = ["deny"]
}
