"""The HTTP route to other services."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from chat.bodies import body_of
from chat.calls import call_service
from chat.requests import access_of, answer, node_of


class Answer(msgspec.Struct):
    """What the other service answered. Its fields are its own."""


async def call(request: Request) -> Response:
    """Call the action in the path with the body as its data; without a body, with null."""
    access, action = access_of(request), request.path_params["action"]
    data: Any = b"null"
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        data = await body_of(request, msgspec.Raw)
    return answer(await call_service(node_of(request), access, action, bytes(data)))
