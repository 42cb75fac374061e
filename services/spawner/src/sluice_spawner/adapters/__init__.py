"""What stands between the spawner's decisions and the world."""
