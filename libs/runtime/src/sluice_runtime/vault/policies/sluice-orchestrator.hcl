# The login by AppRole pipeline-orchestrator: it makes the pipeline's root token, and nothing else. The token role says
# which policies that may have.
path "auth/token/create/sluice-pipeline" {
  capabilities = ["create", "update"]
}
