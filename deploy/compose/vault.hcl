storage "raft" {
  path    = "/vault/file"
  node_id = "compose"
}
listener "tcp" {
  address     = "0.0.0.0:8200"
  tls_disable = true # inside the compose network only; the port is not published
}
api_addr     = "http://vault:8200"
cluster_addr = "https://vault:8201"
# As Vault's documentation says for this storage: swap must be off, or encrypted, where it runs.
disable_mlock = true
ui            = false
