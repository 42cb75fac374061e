"""Works: an agent's turns, models and tools."""
