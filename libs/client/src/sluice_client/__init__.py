"""The Python client and the sluice command."""
