# For a token that has children: the pipeline's, and that of an agent that may have agents. Vault gives a child no policy
# that its parent lacks. What is not named here, such as an orphan or a period, may not be asked for.
path "auth/token/create" {
  capabilities = ["create", "update"]
  allowed_parameters = {
    "policies"          = []
    "no_default_policy" = []
    "meta"              = []
    "display_name"      = []
    "ttl"               = []
    "explicit_max_ttl"  = []
    "renewable"         = []
    "type"              = ["service"]
  }
}
