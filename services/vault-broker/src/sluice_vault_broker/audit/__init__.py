"""Follows Vault's audit file and tells each use of Vault on a topic; a process of its own, beside Vault."""
