"""The ways into the runner."""
