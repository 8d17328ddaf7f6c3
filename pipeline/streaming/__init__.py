"""The streaming job: Kafka to the Delta tables, each event exactly once."""
