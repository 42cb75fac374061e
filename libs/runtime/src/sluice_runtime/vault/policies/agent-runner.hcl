# The service agent-runner: its own token, and nothing else. What it may decrypt stands in the policies of its queues;
# secrets it reads with the agent's token, not with this one.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
