"""How the vault-broker is started."""
