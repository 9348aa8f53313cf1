"""The outside systems."""
