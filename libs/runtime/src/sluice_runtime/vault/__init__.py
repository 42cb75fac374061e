"""What Vault holds for Sluice, as files, and the names by which services ask for it."""
