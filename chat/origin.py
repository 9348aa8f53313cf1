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
