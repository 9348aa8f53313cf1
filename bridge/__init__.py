"""The outside systems: databases and brokers."""
