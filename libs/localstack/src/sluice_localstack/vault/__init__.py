"""HashiCorp Vault, or OpenBao: started here or given, and brought to what Sluice needs of it."""
