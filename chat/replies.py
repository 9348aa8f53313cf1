"""How the answers of a connection go out, and whether more is read meanwhile: uvicorn's parts, bounded."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from chat.requests import weigh


class Flow(FlowControl):
    """Whether is read: not while bytes wait that are behind the open request, whatever its application asks for."""

    _held = False

    def hold(self) -> None:
        self._held = True
        self.pause_reading()

    def release(self) -> None:
        self._held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        if not self._held:
            super().resume_reading()


class Replies:
    """A connection's transport as its requests see it: a head leaves with the body behind it, in one system call."""

    __slots__ = ("_head", "_loop", "_transport", "close", "is_closing")

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._head = b""
        self.is_closing = transport.is_closing
        self.close = close

    def write(self, data: bytes) -> None:
        if self._head:
            head, self._head = self._head, b""
            if len(data) > HIGH_WATER_LIMIT:  # joined, it would be there twice
                self._transport.write(head)
            else:
                data = head + data
            self._transport.write(data)
        else:
            self._head = data
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = b""


class Cycle(RequestResponseCycle):
    """A request and its response."""

    reusable = True  # what is left of the body, if it is answered early, is worth reading for the next request
    _until_closed = False  # HTTP/1.0 knows no chunks: the end of the connection is the end of the body

    async def send(self, message: Any) -> None:
        if self._until_closed:
            self.expected_content_length = len(message.get("body", b""))
        elif not self.response_started and message["type"] == "http.response.start":
            if self.more_body and (self.waiting_for_100_continue or not self.reusable):
                self.keep_alive = False
            if self.scope["http_version"] == "1.0" and all(name != b"content-length" for name, _ in message["headers"]):
                self._until_closed = True
                self.chunked_encoding = False
        body = message.get("body")
        if body and not message.get("more_body"):  # of a stream each piece is small
            weigh(cast(Scope, self.scope), len(body))
        await super().send(message)
