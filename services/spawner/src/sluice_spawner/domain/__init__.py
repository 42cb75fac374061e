"""The pure core: what the spawner knows, and how it decides. No I/O, clock, random or await."""
