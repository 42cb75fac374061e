"""The deciding processor: pure decisions made durable, atomic and fenced (architecture §5)."""
