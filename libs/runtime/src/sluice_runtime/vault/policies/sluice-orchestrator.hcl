# The login by AppRole pipeline-orchestrator: it makes the pipeline's root token, and nothing else. The token role says
# which policies that may have; the entity comes with the alias that is asked for.
path "auth/token/create/sluice-pipeline" {
  capabilities = ["create", "update"]
}
