"""Whose web pages may use this server: its own, and those of ALLOWED_ORIGINS. Pure.

Browsers send `Origin` in one spelling only (RFC 6454, section 6.2; WHATWG URL): scheme and host in lower case, no
default port, no path. So origins are compared as they are; whatever is spelled otherwise is no browser's, or a trick.
"""

import re
from collections.abc import Collection

_DEFAULT_PORT = {"http": ":80", "https": ":443"}
_SCHEME = {"ws": "http", "wss": "https"}
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_ORIGIN = re.compile(rf"(https?)://({_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\])(:[1-9][0-9]{{0,4}})?", re.ASCII)


def is_origin(text: str) -> bool:
    """Whether `text` is an origin as a browser spells it."""
    match = _ORIGIN.fullmatch(text)
    return match is not None and match[3] != _DEFAULT_PORT[match[1]]


def listed(text: str) -> frozenset[str]:
    """The origins of a comma-separated list."""
    return frozenset(origin.strip() for origin in text.split(",") if origin.strip())


_HOST = re.compile(rf"((?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9a-f:.]+\])(?::([0-9]{{1,5}}))?", re.ASCII)
_LONGEST_HOST = 261  # a name of 253 letters, its dot and a port


def is_host(text: str) -> bool:
    """Whether `text` may stand in ALLOWED_HOSTS."""
    return text == "*" or _HOST.fullmatch(text.lower()) is not None


def without_default_port(text: str) -> str:
    """The host that is meant by one with :80 or :443, which no browser sends; empty for any other text."""
    match = _HOST.fullmatch(text.lower())
    return match[1] if match is not None and match[2] is not None and int(match[2]) in (80, 443) else ""


def answers_to(host: str, hosts: Collection[str], own_address: str = "") -> bool:
    """Whether the header `host` is one of `hosts`: with its port, or with any where the list names none.

    A name's case and the dot at its end make no difference. The address a connection came to is always answered: a name
    that was made to point here is none, and who watches a server knows its address only.
    """
    match = _HOST.fullmatch(host.lower()) if len(host) <= _LONGEST_HOST else None
    if match is None or host.startswith("*"):
        return False
    name, port = match[1].removesuffix("."), match[2]
    if own_address and name.strip("[]") == own_address:
        return True
    for listed_host in hosts:
        known = _HOST.fullmatch(listed_host.lower())
        if known is None:
            return True  # *
        own_name = known[1].removesuffix(".")
        same = name.endswith(own_name[1:]) if own_name.startswith("*.") else name == own_name
        if same and known[2] in (None, port):
            return True
    return False


_LOOPBACK = re.compile(r"(?:(?:[a-z0-9-]+\.)*localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?", re.ASCII)


def is_here(host: str, others: Collection[str]) -> bool:
    """Whether the header `host` names this machine, or one of the origins `others`.

    Else a foreign page asks whose name was made to point at 127.0.0.1 (DNS rebinding): for its browser it is our own.
    """
    host = host.lower()
    return _LOOPBACK.fullmatch(host) is not None or {f"http://{host}", f"https://{host}"}.intersection(others) != set()


def allows(origin: str | None, host: str, scheme: str, others: Collection[str]) -> bool:
    """Whether a request may be served: `origin` and `host` are its headers, `scheme` is http, https, ws or wss.

    A request without Origin is a program's, not a page's. Same origin means: the page came from the very scheme, host
    and port that it now asks.
    """
    if origin is None:
        return True
    if not is_origin(origin):
        return False
    scheme = _SCHEME.get(scheme, scheme)
    own = f"{scheme}://{host.removesuffix(_DEFAULT_PORT.get(scheme, ''))}"
    return origin == own or origin in others
