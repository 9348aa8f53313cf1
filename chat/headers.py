"""What browsers are told not to do with what we answer: https://owasp.org/www-project-secure-headers/"""

from collections.abc import Collection, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Send

# The page loads its own files and talks to its own server ('self' is ws: and wss: as well); nothing is inline.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",  # of everything but the page
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


# What a page of another origin may send and see: https://fetch.spec.whatwg.org/#http-cors-protocol
_METHODS = "DELETE, GET, HEAD, PATCH, POST, PUT"
_SENT = "authorization, content-encoding, content-type, idempotency-key, last-event-id, x-api-key"
_SEEN = "retry-after, x-cache, x-epoch, x-offset"
_PREFLIGHT_AGE = "600"  # seconds a browser need not ask again


class Cors:
    """What answers say to the pages of ALLOWED_ORIGINS, and to theirs alone."""

    def __init__(self, origins: Collection[str] = (), cookies: bool = False) -> None:
        self._origins = origins
        self._cookies = cookies

    def headers(self, method: str, asked: Headers) -> dict[str, str]:
        """What an answer to this request carries besides; it differs by origin, which caches must know."""
        if not self._origins:
            return {}
        origin = asked.get("origin", "")
        if origin not in self._origins:
            return {"vary": "Origin"}
        found = {"access-control-allow-origin": origin, "cross-origin-resource-policy": "cross-origin"}
        found |= {"vary": "Origin", "access-control-expose-headers": _SEEN}
        if self._cookies:
            found |= {"access-control-allow-credentials": "true"}
        if method == "OPTIONS" and "access-control-request-method" in asked:
            found |= {"access-control-allow-methods": _METHODS, "access-control-allow-headers": _SENT}
            found |= {"access-control-max-age": _PREFLIGHT_AGE}
        return found


RAW_HEADERS = tuple((name.encode(), value.encode()) for name, value in HEADERS.items())
_SECURED = (*RAW_HEADERS, (b"cache-control", b"no-store"))


def secured(send: Send, added: Mapping[str, str]) -> Send:
    """`send` of an HTTP request, with HEADERS where the response does not bring its own, and what is `added`.

    Bodies pass as they are. What does not say otherwise is kept by nobody.
    """

    async def send_secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            if added:
                _add(MutableHeaders(scope=message), added)
            brought = {name for name, _ in message["headers"]}
            own = [header for header in _SECURED if header[0] not in brought]
            message["headers"] = [*message["headers"], *own]
        await send(message)

    return send_secured


def _add(headers: MutableHeaders, added: Mapping[str, str]) -> None:
    for name, value in added.items():
        if name == "vary":
            headers.add_vary_header(value)
        else:
            headers[name] = value
