"""What browsers are told not to do with what we answer: https://owasp.org/www-project-secure-headers/"""

from starlette.datastructures import MutableHeaders
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


def secured(send: Send) -> Send:
    """`send` of an HTTP request, with HEADERS where the response does not bring its own. Bodies pass as they are."""

    async def send_secured(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_secured
