"""The one place that wires. Each process has its own, so that none loads what only the other needs."""
