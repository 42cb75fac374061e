"""How it is said: the processor, Kafka, artifacts, settings, HTTP, logs, life cycle."""
