"""The load generator is tested against a server that breaks every promise it checks."""
