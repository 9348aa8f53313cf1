"""Faults: numbered messages through a server that is killed, paused and cut, and the check that all of them arrived."""
