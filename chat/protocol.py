"""The Centrifugal client protocol, version 2, in JSON: bytes in, commands out; replies and pushes in, bytes out.

No I/O here. A frame holds newline-joined JSON objects. https://centrifugal.dev/docs/transports/client_protocol
"""

import contextlib
import re
from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from chat.errors import BadRequest, PeykError
from pipeline.content import UNREADABLE
from pipeline.encode import publication
from pipeline.producer import Position
from pipeline.replay import Page

Raw = msgspec.Raw
OFFSET_LIMIT = 2**53  # what JavaScript counts exactly
Offset = Annotated[int, msgspec.Meta(ge=0, le=OFFSET_LIMIT)]


class Connect(msgspec.Struct):
    """`data` may be any JSON; of an object, `user` is read."""

    token: str = ""
    data: Raw = Raw(b"null")
    name: str = ""
    version: str = ""

    def username(self) -> str:
        """The name somebody asks for; empty: none. Raises BadRequest."""
        try:
            said = _decode_hello(self.data).user
        except UNREADABLE:
            return ""
        try:
            return _decode_text(said)
        except UNREADABLE:
            raise BadRequest("connect.data.user must be a string") from None


class _Hello(msgspec.Struct):
    user: Raw = Raw(b'""')


_decode_hello = msgspec.json.Decoder(_Hello).decode
_decode_text = msgspec.json.Decoder(str).decode


class Subscribe(msgspec.Struct):
    channel: str
    token: str = ""
    recover: bool = False
    epoch: str = ""
    offset: Offset = 0
    flag: int = 0
    join_leave: bool = False

    @property
    def reject_unrecovered(self) -> bool:
        return bool(self.flag & 2)


class Refresh(msgspec.Struct):
    token: str


class SubRefresh(msgspec.Struct):
    channel: str
    token: str


class Unsubscribe(msgspec.Struct):
    channel: str


class Publish(msgspec.Struct):
    channel: str
    data: Raw
    key: str = ""


class StreamPosition(msgspec.Struct):
    offset: Offset = 0
    epoch: str = ""


class History(msgspec.Struct):
    channel: str
    limit: int = 0
    since: StreamPosition | None = None
    reverse: bool = False


class Present(msgspec.Struct):
    """presence, presence_stats"""

    channel: str


class Rpc(msgspec.Struct):
    method: str
    data: Raw = Raw(b"{}")


class Unread(msgspec.Struct):
    """An object whose fields say nothing to us."""


class Command(msgspec.Struct):
    """One command: its id and exactly one of the others. All absent is a pong.

    Nothing here is `Any`: a client's JSON becomes objects where it is used and its size known, else a frame of numbers
    that nobody reads takes the loop for seconds.
    """

    id: int = 0
    publish: Publish | None = None
    subscribe: Subscribe | None = None
    connect: Connect | None = None
    unsubscribe: Unsubscribe | None = None
    history: History | None = None
    presence: Present | None = None
    presence_stats: Present | None = None
    refresh: Refresh | None = None
    sub_refresh: SubRefresh | None = None
    rpc: Rpc | None = None
    send: Unread | None = None
    ping: Unread | None = None

    @property
    def is_message(self) -> bool:
        return self.publish is not None or (self.rpc is not None and self.rpc.method == "publish")


class _AnyCommand(msgspec.Struct):
    id: int = 0


COMMANDS = (
    "connect",
    "subscribe",
    "unsubscribe",
    "publish",
    "history",
    "presence",
    "presence_stats",
    "rpc",
    "send",
    "ping",
    "refresh",
    "sub_refresh",
)
_decode = msgspec.json.Decoder(Command).decode
_decode_id = msgspec.json.Decoder(_AnyCommand).decode
_FIRST_NAME = re.compile(rb'\s*\{\s*(?:"id"\s*:\s*[0-9]+\s*,\s*)?"(?!id")([^"]{1,100})')
_HALF = "a text holds half of a surrogate pair (\\ud800 to \\udfff), which is no character: send both halves or none"
encode = msgspec.json.Encoder().encode


class Malformed(BadRequest):
    """A line that cannot be answered, because it has no readable id: the connection ends (3501)."""


class CommandError(BadRequest):
    """A command that is wrong in a way its sender can be told: `id` is its id."""

    def __init__(self, command_id: int, message: str) -> None:
        super().__init__(message)
        self.id = command_id


def decode_command(line: bytes) -> Command:
    """One line of a frame as a command. Raises CommandError, or Malformed where there is no id to answer to."""
    try:
        return _decode(line)
    except UNREADABLE as error:
        raise _refusal(line, error) from None


def _refusal(line: bytes, error: Exception) -> BadRequest:
    """Why a line is no command, with its id where that can be read.

    Half of a surrogate pair cannot be decoded, even where it is passed over: another character in its place can.
    """
    without_halves = line.replace(b"\\ud", b"\\uf").replace(b"\\uD", b"\\uf")
    for why, readable in ((str(error), line), (_HALF, without_halves)):
        with contextlib.suppress(*UNREADABLE):
            return CommandError(_decode_id(readable).id, f"malformed command: {why}")
    return Malformed(f"a frame holds lines of JSON objects such as {PING_LINE}: {error}")


def unknown_method(line: bytes) -> str:
    """What a command asked for that has none of the names we know, as its beginning says; empty: nothing."""
    found = _FIRST_NAME.match(line[:256])
    return "" if found is None else found[1].decode(errors="replace")


KEY_LIMIT = 128  # bytes of an idempotency key


def publish_params(data: Raw) -> Publish:
    """The parameters of rpc `publish`."""
    try:
        return msgspec.json.decode(data, type=Publish)
    except UNREADABLE as error:
        raise BadRequest(f'publish takes {{"channel","data","key"}}: {error}') from None


def check_key(key: str) -> None:
    if len(key.encode()) > KEY_LIMIT:
        raise BadRequest(f"an idempotency key has at most {KEY_LIMIT} bytes")
    if "\n" in key:  # as the keys of events have, so that theirs and a user's are never the same
        raise BadRequest("an idempotency key is one line")


def position_body(position: Position) -> dict[str, Any]:
    """What a publisher is told of its message."""
    return {
        "id": position.id,
        "offset": position.offset,
        "epoch": position.epoch,
        "time": position.ms,
        "duplicate": position.duplicate,
    }


PING_LINE = '{"id":1,"connect":{}}'
PING = b"{}"


def reply(command_id: int, name: str, result: Any) -> bytes:
    """`{"id":…,"<name>":…}`; `result` is anything that encodes to JSON."""
    return b'{"id":%d,"%b":%b}' % (command_id, name.encode(), encode(result))


def error_reply(command_id: int, error: PeykError) -> bytes:
    body: dict[str, Any] = {"code": error.code, "message": str(error)}
    if error.temporary:
        body["temporary"] = True
    return reply(command_id, "error", body)


def publish_reply(command_id: int) -> bytes:
    return b'{"id":%d,"publish":{}}' % command_id


def subscribe_reply(
    command_id: int, epoch: str, offset: int, recovered: bool | None, pubs: Iterable[bytes], ttl: int = 0
) -> bytes:
    """`recovered` None: the client did not ask for recovery. `ttl`: seconds until it expires, 0: never."""
    body = f'{{"recoverable":true,"positioned":true,"epoch":"{epoch}","offset":{offset}'
    if ttl:
        body += f',"expires":true,"ttl":{ttl}'
    if recovered is not None:
        body += f',"was_recovering":true,"recovered":{"true" if recovered else "false"}'
    return b'{"id":%d,"subscribe":%b,"publications":[%b]}}' % (command_id, body.encode(), b",".join(pubs))


def expiry(ttl: int) -> dict[str, Any]:
    """How a reply says that credentials last `ttl` seconds (0: for ever)."""
    return {"expires": True, "ttl": ttl} if ttl else {}


def page_body(page: Page) -> bytes:
    """A page of history: `{"publications":[…],"epoch":…,"offset":…}`; the offset is the channel's highest."""
    pubs = b",".join(publication(message) for message in page.messages)
    return b'{"publications":[%b],"epoch":"%b","offset":%d}' % (pubs, page.epoch.encode(), page.top)


def unsubscribe_push(channel: str, code: int, reason: str) -> bytes:
    return encode({"push": {"channel": channel, "unsubscribe": {"code": code, "reason": reason}}})
