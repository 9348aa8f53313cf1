"""The edge: people and programs connect here."""
