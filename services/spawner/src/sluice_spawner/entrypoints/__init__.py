"""How the spawner is started."""
