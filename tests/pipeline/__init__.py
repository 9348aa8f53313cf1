"""The way of a message, on real servers and with faults put in."""
