"""One HTTP connection: a request at a time, in a turn of the event loop of its own.

uvicorn's protocol parses whatever was read and keeps the requests behind an open one, without a bound. Here nothing
behind a request is parsed before it is answered and the answer is on its way: what was read already waits (one read at
most), the rest in its sender's kernel. Whoever sends too slowly or too much, or does not read, is sent away.
"""

import asyncio
import re
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chat.errors import BadRequest, HeadersTooLarge, PeykError, RequestTimeout, TooManyRequests, UnknownVersion
from chat.framing import Part, RequestExtent
from chat.handshake import COUNTED, NODE, Handshake, uncount
from chat.headers import RAW_HEADERS
from chat.metrics import count
from chat.replies import Cycle, Flow, Replies
from chat.requests import failure
from chat.unread import StandstillTimer, bound_send_buffer, leave

if TYPE_CHECKING:
    from chat.node import Node

_HEARING = 1.0  # seconds in which who is beyond its address' limit must say something, to hear so
MOST_HEADERS = 128  # of a request, as of a WebSocket's handshake: each becomes objects
MOST_FIELDS = 64  # of a query, likewise
_PIECES = 256  # pieces of one request that are parsed before others have their turn
_CLOSE = b"connection", b"close"
# To change to another protocol than WebSocket is declined (RFC 9110, section 7.8). The parser must not even hear of it:
# it would take the request to end with its head, and the body for the next one.
_DECLINED = re.compile(rb"(?<=\n)upgrade(?=:(?![ \t]*websocket[ \t]*\r\n))", re.IGNORECASE)


class RequestProtocol(HttpToolsProtocol):
    """A connection until it ends, or becomes a WebSocket's."""

    _node: "Node"
    _replies: Replies
    _deadline: asyncio.TimerHandle | None = None  # until it has sent a whole request
    _beyond: TooManyRequests | None = None  # its address has too many connections
    _unparsed = b""
    _trailed = False  # the last request had trailers: this parser obeys what they say of the connection
    _begun = False  # a head was parsed whose application does not run yet
    _answering = False  # a whole request is here, and its response is not complete
    _turn: asyncio.Handle | None = None  # the next one: a neighbour may come first
    _standstill: StandstillTimer | None = None
    _ended = False  # the client sends no more
    _left = False  # nor do we

    def connection_made(self, transport: Any) -> None:
        """A connection counts for its address from here on; one beyond its address' limit is told so and ended."""
        super().connection_made(transport)
        self._node = self.app_state[NODE]
        self.flow = self._flow = Flow(transport)
        self._replies = Replies(transport, self.leave)
        self._extent = RequestExtent()
        bound_send_buffer(transport, self._node.settings.high_water)
        address = self.client[0] if self.client else ""
        proxies = cast(ProxyHeadersMiddleware, self.app)
        try:
            if address not in proxies.trusted_hosts:
                self.app = proxies.app  # which read X-Forwarded-For and -Proto: those of others say nothing
                self._node.limits.enter(address)
                self.app_state = {**self.app_state, COUNTED: address}
        except TooManyRequests as error:
            self._beyond = error.with_traceback(None)  # which holds this, in a circle
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._end()
        uncount(self.app_state)

    def _end(self) -> None:
        """Nothing comes of it any more. Without its circles all of it goes at once."""
        self._left = True
        self._forget_timers()
        self._unparsed = b""
        self.parser = cast(Any, None)
        self.cycle = cast(Any, None)
        self.__dict__.pop("_replies", None)

    # -- bytes come in

    def data_received(self, data: bytes) -> None:
        if self._beyond is not None:
            self._refuse(self._beyond)
            return
        self._unset_keepalive_if_required()
        self._unparsed = self._unparsed + data if self._unparsed else data
        if self._answering or self._turn is not None or self._flow.write_paused:
            self._flow.hold()
        else:
            self._parse()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whoever sends no more may still wait for its answer; a stream ends with its reader."""
        self._ended = True
        return self._answering and not self.cycle.response_started

    def _take_turn(self) -> None:
        """Go on in the next turn of the loop, if the last answer is on its way."""
        self._flow.hold()
        if self._turn is None and not self._flow.write_paused:
            self._turn = self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._turn = None
        if not self._left and not self._answering:
            self._parse()

    def _parse(self) -> None:
        """Parse the open request as far as it is here, and nothing of the next."""
        try:
            pieces = self._feed_pieces()
        except PeykError as error:
            self._refuse(error)
            return
        if self._left:
            return
        if self._answering:
            if self._unparsed:
                self._flow.hold()
        elif pieces == _PIECES:
            self._take_turn()
        else:
            self._flow.release()
            if self._deadline is None:
                self._await_request()

    def _feed_pieces(self) -> int:
        """Give the parser what it may have; the number of pieces. Raises BadRequest."""
        data, at, pieces = self._unparsed, 0, 0
        while at < len(data) and pieces < _PIECES and not self._answering and not self._left:
            if self._extent.part is Part.HEAD and data[at] in b"\r\n":  # an empty line or more before a request
                data = data[at:].lstrip(b"\r\n")
                at = 0
                continue
            part = self._extent.part
            if part is Part.HEAD and self._trailed:
                self._trailed = False
                self.parser = httptools.HttpRequestParser(self)
            end = self._extent.piece(data, at)
            if part is not Part.BODY and part is not Part.CHUNK:
                self._check_line(data, at, end)
            if end == at:
                break
            piece = data[at:end]
            self._unparsed = b""
            if part is Part.HEAD:
                self._unparsed = data[end:]  # an upgrade looks at it
                piece = _DECLINED.sub(b"x-upgrade", piece) if b"\nupgrade:" in piece.lower() else piece
            self._feed(piece)
            at = end
            pieces += 1
        self._unparsed = b"" if self._left else data[at:]
        return pieces

    def _check_line(self, data: bytes, at: int, end: int) -> None:
        """Raises BadRequest for a head, a line or trailers that are too long, or can never be whole."""
        limit = self._node.settings.header_limit
        if (end - at or len(data) - at) > limit or self._extent.trailers > limit:
            raise HeadersTooLarge(f"the first line and headers of a request have at most {limit} bytes")
        if self._extent.part is Part.HEAD and data.count(b"\n", at, end) > MOST_HEADERS + 2:
            raise HeadersTooLarge(f"a request has at most {MOST_HEADERS} headers")
        if end == at and self._extent.is_foreign(data, at):
            raise BadRequest("this is no HTTP/1.1; it is plain here, not TLS, and its lines end with CR LF")

    def _feed(self, piece: bytes) -> None:
        """Raises BadRequest."""
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, PeykError):
                raise error.__context__ from None
            raise BadRequest("the target of a request is a path: /api/channels") from None
        except httptools.HttpParserError as error:
            raise BadRequest(f"this is no HTTP/1.1 request: {error}") from None
        if self._begun:
            self._begun = False
            self._start_asgi_task(self.cycle, self.app)

    # -- what the parser tells

    def on_message_begin(self) -> None:
        if self._answering:
            raise BadRequest("a request ends with its own body")
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """What stands behind a body is no header: a proxy in front has not looked at it."""
        if self._extent.part is Part.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole: the request's cycle is made; its application starts after the parser has returned.

        Raises UnknownVersion.
        """
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise UnknownVersion("HTTP/1.1 is spoken here, and HTTP/1.0")
        self.scope["http_version"] = version
        self.scope["method"] = self.parser.get_method().decode("ascii")
        length = self._body_length()
        if self.parser.should_upgrade():  # where the parser takes the request to end
            if length != 0 or not self._should_upgrade():
                raise BadRequest("a WebSocket's handshake has no body, and CONNECT is for proxies")
            return
        if length != 0:
            self._extent.begin_body(length)
        self._read_target()
        self.cycle = Cycle(
            scope=self.scope,
            transport=cast(asyncio.Transport, self._replies),
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version == "1.1" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        self.cycle.reusable = length is not None and length <= HIGH_WATER_LIMIT
        self._begun = True

    def _body_length(self) -> int | None:
        """Bytes of the body, which the parser has judged; None: it comes in chunks."""
        length: int | None = 0
        for name, value in self.headers:
            if name == b"transfer-encoding":
                return None
            if name == b"content-length":
                length = int(value)
        return length

    def _read_target(self) -> None:
        """What is asked for: a path, `*`, or a whole URL, whose host then counts (RFC 9112, section 3.2.2)."""
        if self.url == b"*" and self.scope["method"] == "OPTIONS":
            path, query = b"*", b""
        else:
            url = httptools.parse_url(self.url)
            path, query = url.path or b"/", url.query or b""
            if url.host is not None:
                host = b"[%b]" % url.host if b":" in url.host else url.host
                host += b"" if url.port is None else b":%d" % url.port
                self.headers[:] = [header for header in self.headers if header[0] != b"host"] + [(b"host", host)]
        if query.count(b"&") >= MOST_FIELDS:
            raise BadRequest(f"a query has at most {MOST_FIELDS} fields")
        self.scope["path"] = unquote(path.decode("ascii")) if b"%" in path else path.decode("ascii")
        self.scope["raw_path"] = path
        self.scope["query_string"] = query

    def on_message_complete(self) -> None:
        self._trailed = self._extent.trailers > len(b"\r\n")
        self._extent.begin()
        self._stop_waiting()
        if self.parser.should_upgrade() and self._should_upgrade():
            return
        if self.cycle.response_complete:  # before all of the body came
            self._await_another()
        else:
            self._answering = True
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        early = self._unparsed
        super().handle_websocket_upgrade()
        handshake = self.transport.get_protocol()
        if isinstance(handshake, Handshake):
            handshake.early = early
        self._end()

    # -- answers go out

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._left:
            return
        self._answering = False
        if self._unparsed:
            self._take_turn()
        elif self._ended:
            self.leave()
        else:
            self._flow.release()
            if self._deadline is None:  # its body is here as well
                self._await_another()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._standstill = StandstillTimer(self.transport, self._node.settings.reader_timeout, self.client)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_watching()
        if self._answering or self._left:
            return
        if self._unparsed:
            self._take_turn()
        else:
            self._flow.release()

    def _refuse(self, error: PeykError) -> None:
        """Answer and leave; within another answer, drop the connection."""
        if self._left:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        reply = failure(error)
        headers = (b"%b: %b\r\n" % header for header in (*reply.raw_headers, *RAW_HEADERS, _CLOSE))
        self._replies.flush()
        self.transport.write(b"".join((STATUS_LINE[reply.status_code], *headers, b"\r\n", bytes(reply.body))))
        if self._beyond is not None:  # and it counts for nobody
            self.transport.close()
            return
        self._extent.part = Part.BODY  # whatever it was, it may go on
        self.leave()

    def leave(self) -> None:
        """End the connection; the client still gets what was written."""
        if self._left or self.transport.is_closing():
            return
        self._left = True
        self._replies.flush()
        self._forget_timers()
        more_comes = bool(self._unparsed) or self._extent.part is not Part.HEAD
        patience = self._node.settings.reader_timeout
        leave(self, self.transport, cast(set[Any], self.connections), patience, self.client, more_comes)

    def shutdown(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.leave()
        else:
            self.cycle.keep_alive = False

    # -- time

    def _await_request(self) -> None:
        """A whole request must come in time, the first or a later one."""
        wait = self._node.settings.handshake_timeout if self._beyond is None else _HEARING
        self._deadline = self.loop.call_later(wait, self._give_up)

    def _await_another(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.leave)

    def _give_up(self) -> None:
        self._deadline = None
        if self._flow.read_paused:  # we are slow, not the client
            self._await_request()
        elif self._unparsed or self._extent.part is not Part.HEAD:
            self._refuse(RequestTimeout(f"a request is sent within {self._node.settings.handshake_timeout:g} s"))
        else:
            count("handshake" if self._beyond is None else self._beyond.limit)
            self.transport.abort()

    def _forget_timers(self) -> None:
        self._stop_waiting()
        self._stop_watching()
        self._unset_keepalive_if_required()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_watching(self) -> None:
        if self._standstill is not None:
            self._standstill.stop()
            self._standstill = None
