"""Kafka: the real `sluice_runtime.broker.Broker`, by aiokafka, and what it is made of."""
