"""Apache Kafka: fetched by a lock file, started by itself or given from outside."""
