"""What stands between the vault-broker's decisions and Vault."""
