"""One door to each outside system: Kafka, ClickHouse, HTTP."""
