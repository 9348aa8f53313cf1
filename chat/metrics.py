"""What is counted, and how /metrics shows it: the Prometheus text format. One process's numbers."""

from pipeline.ports import Measures

REFUSALS = {
    "origin": "requests of foreign web pages",
    "host": "requests that asked for another machine than this one",
    "message_bytes": "messages and bodies that were too large",
    "header_bytes": "requests whose first line and headers were too large",
    "frame_bytes": "WebSocket frames that were too large",
    "json_depth": "messages whose JSON was too deep",
    "name_length": "channel names that were too long",
    "page": "pages of history that were asked too long",
    "rate": "commands, requests and messages beyond their rate",
    "attempts": "sign-ins after too many wrong passwords",
    "address_sign_ins": "sign-ins beyond what one address, or one user where they are known, may try",
    "sign_in_queue": "sign-ins beyond what may wait for their password to be checked",
    "address_accounts": "accounts beyond what one address may make",
    "accounts": "accounts beyond what there may be",
    "flood": "clients closed because they went on far beyond their rate",
    "address_connections": "connections beyond what one address may have",
    "user_connections": "clients beyond what one user may have connected",
    "subscriptions": "subscriptions beyond what one client may have",
    "channels": "channels beyond what there may be",
    "new_channels": "channels beyond what one user or one address may make in an hour",
    "roles": "roles beyond what one channel may give",
    "user_channels": "channels beyond what one user may belong to",
    "user_asks": "people asked to talk alone beyond what one user may ask in a day",
    "calls": "calls to other services beyond what one node may have under way",
    "handshake": "connections closed because no whole request came in time",
    "connect": "sockets closed because no first command came in time",
    "unread_bytes": "sockets dropped because they did not read",
}
"""Every limit, and what reaching it means."""

_refused = dict.fromkeys(REFUSALS, 0)


def count(name: str) -> None:
    """A limit of REFUSALS was reached once more."""
    _refused[name] += 1


def exposition(measures: Measures) -> str:
    """What was refused, and `measures`, as Prometheus reads them."""
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in REFUSALS.items())
    lines = [f"# HELP peyk_refused_total {meanings}", "# TYPE peyk_refused_total counter"]
    lines += [f'peyk_refused_total{{limit="{name}"}} {value}' for name, value in _refused.items()]
    for name, (meaning, value) in measures.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP peyk_{name} {meaning}", f"# TYPE peyk_{name} {kind}", f"peyk_{name} {value}"]
    return "\n".join(lines) + "\n"
