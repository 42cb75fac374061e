"""Files and Kafka."""
