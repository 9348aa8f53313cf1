"""Which Peyk this is. No other file says it."""

VERSION = "1.0"
SERVER = f"peyk {VERSION}"  # as clients and other services are told
