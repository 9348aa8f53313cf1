"""The edge, from outside: sockets, HTTP, event streams, and a foreign client."""
