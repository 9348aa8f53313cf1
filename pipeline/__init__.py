"""The way of a message: append, consumer groups, fan-out, replay."""
