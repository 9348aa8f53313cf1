"""WebSocket conformance (RFC 6455), case by case over bare TCP, after the chapters of the Autobahn test suite."""

import asyncio
import base64
import hashlib
import json
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from tests.chat.wire import (
    BINARY,
    CLOSE,
    CONT,
    HANDSHAKE,
    KEY,
    NO_CODE,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    Frame,
    Wire,
    frame,
    shake,
)
from tests.services import PeykServer

MEBI = 1024 * 1024  # FRAME_LIMIT
Dial = Callable[[], AbstractAsyncContextManager[Wire]]


@pytest.fixture
def dial(server: PeykServer) -> Dial:
    @asynccontextmanager
    async def open_wire() -> AsyncIterator[Wire]:
        async with shake(server, HANDSHAKE) as (status, _, wire):
            assert status == 101
            assert "connect" in await wire.ask(frame(b'{"id":1,"connect":{}}'))
            yield wire

    return open_wire


def padded(size: int, number: int = 7) -> bytes:
    """A ping command of exactly `size` bytes."""
    return b'{"id":%d,"ping":{}}' % number + b" " * (size - len(b'{"id":7,"ping":{}}'))


# -- framing


@pytest.mark.parametrize("size", [125, 126, 127, 128, 65535, 65536, 65537, MEBI])
async def test_a_text_of_any_length(dial: Dial, size: int) -> None:
    async with dial() as wire:
        assert await wire.ask(frame(padded(size))) == {"id": 7, "ping": {}}


async def test_empty_texts_are_nothing(dial: Dial) -> None:
    async with dial() as wire:
        await wire.send(frame(b""), frame(b"", fin=False), frame(b"", CONT, fin=False), frame(b"", CONT))
        await wire.alive()


@pytest.mark.parametrize("size", [1, 60, 100, 1000, 60_000])
async def test_replies_of_any_length_come_in_one_frame(dial: Dial, size: int) -> None:
    async with dial() as wire:
        channel = f"conform-{size}"
        data = json.dumps({"text": "x" * size})
        command = f'{{"id":2,"publish":{{"channel":"{channel}","data":{data}}}}}'
        for _ in range(3):
            assert "publish" in await wire.ask(frame(command.encode()))
        for limit in range(4):
            reply = await wire.ask(frame(b'{"id":3,"history":{"channel":"%b","limit":%d}}' % (channel.encode(), limit)))
            assert len(reply["history"]["publications"]) == limit


async def test_frames_that_arrive_octet_by_octet(dial: Dial) -> None:
    async with dial() as wire:
        for octet in frame(b'{"id":2,"pi', fin=False) + frame(b"abc", PING) + frame(b'ng":{}}', CONT):
            await wire.send(bytes([octet]))
        assert await wire.frame() == Frame(PONG, b"abc")
        assert (await wire.frame()).payload == b'{"id":2,"ping":{}}'


async def test_many_frames_that_arrive_at_once(dial: Dial) -> None:
    async with dial() as wire:
        await wire.send(*(frame(padded(20 + n, n)) for n in range(10, 40)))
        seen: list[int] = []
        while len(seen) < 30:
            seen += [json.loads(line)["id"] for line in (await wire.frame()).payload.split(b"\n")]
        assert seen == list(range(10, 40))


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x12\x34\x56\x78"])
async def test_any_mask(dial: Dial, mask: bytes) -> None:
    async with dial() as wire:
        assert await wire.ask(frame(padded(301), mask=mask)) == {"id": 7, "ping": {}}


# -- pings and pongs


@pytest.mark.parametrize("payload", [b"", b"x", b"\0\xff\xfe", b"y" * 124, b"z" * 125])
async def test_a_ping_is_answered_with_its_payload(dial: Dial, payload: bytes) -> None:
    async with dial() as wire:
        await wire.send(frame(payload, PING))
        assert await wire.frame() == Frame(PONG, payload)
        await wire.alive()


async def test_pings_are_answered_in_order_and_pongs_ignored(dial: Dial) -> None:
    async with dial() as wire:
        await wire.send(*(frame(b"%d" % n, PING) + frame(b"unasked", PONG) for n in range(10)))
        assert [(await wire.frame()).payload for _ in range(10)] == [b"%d" % n for n in range(10)]
        await wire.alive()


# -- fragments


async def test_fragments_with_pings_between_them(dial: Dial) -> None:
    async with dial() as wire:
        text = padded(200)
        await wire.send(frame(text[:1], fin=False))
        for n in range(1, 199):
            await wire.send(frame(text[n : n + 1], CONT, fin=False), frame(b"%d" % n, PING))
            assert await wire.frame() == Frame(PONG, b"%d" % n)
        assert await wire.ask(frame(text[199:], CONT)) == {"id": 7, "ping": {}}


async def test_a_letter_may_be_split_over_fragments(dial: Dial) -> None:
    async with dial() as wire:
        text = '{"id":2,"publish":{"channel":"conform-utf8","data":{"text":"κόσμε 😀 سلام"}}}'.encode()
        pieces = [frame(bytes([octet]), CONT, fin=False) for octet in text[1:]]
        assert "publish" in await wire.ask(frame(text[:1], fin=False), *pieces, frame(b"", CONT))
        page = await wire.ask(frame(b'{"id":3,"history":{"channel":"conform-utf8","limit":1,"reverse":true}}'))
        assert page["history"]["publications"][0]["data"] == {"text": "κόσμε 😀 سلام"}


# -- what breaks the protocol

WRONG = {
    **{f"reserved bit {rsv} on {kind}": frame(b"{}", kind, rsv=rsv) for rsv in (1, 2, 4, 7) for kind in (TEXT, PING)},
    **{f"reserved opcode {opcode}": frame(b"{}", opcode) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "unmasked text": frame(b"{}", mask=None),
    "unmasked ping": frame(b"", PING, mask=None),
    "unmasked close": frame(b"\x03\xe8", CLOSE, mask=None),
    "continuation of nothing": frame(b"{}", CONT),
    "continuation of nothing, unfinished": frame(b"{}", CONT, fin=False),
    "continuation after the end": frame(b"", fin=False) + frame(b"", CONT) + frame(b"{}", CONT),
    "text inside a fragmented text": frame(b"{", fin=False) + frame(b"{}"),
    "binary inside a fragmented text": frame(b"{", fin=False) + frame(b"{}", BINARY),
    "text inside a fragmented binary": frame(b"{", BINARY, fin=False) + frame(b"{}"),
    "long ping": frame(b"x" * 126, PING),
    "long pong": frame(b"x" * 126, PONG),
    "long close": frame(b"\x03\xe8" + b"x" * 124, CLOSE),
    "fragmented ping": frame(b"x", PING, fin=False),
    "fragmented close": frame(b"\x03\xe8", CLOSE, fin=False),
    "half a close code": frame(b"\x03", CLOSE),
    **{
        f"close code {code}": frame(struct.pack("!H", code), CLOSE)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_breaks_the_protocol_ends_the_connection(dial: Dial, name: str) -> None:
    async with dial() as wire:
        await wire.send(WRONG[name])
        assert await wire.closed() == 1002


async def test_nothing_is_done_after_an_error(dial: Dial) -> None:
    async with dial() as wire, dial() as other:
        late = b'{"id":2,"publish":{"channel":"conform-late","data":1}}'
        await wire.send(frame(b"{}", rsv=1), frame(late))
        assert await wire.closed() == 1002
        assert (await other.ask(frame(b'{"id":2,"history":{"channel":"conform-late"}}')))["history"]["offset"] == 0


async def test_binary_is_refused(dial: Dial) -> None:
    for pieces in ([frame(b"{}", BINARY)], [frame(b"{", BINARY, fin=False), frame(b"}", CONT)]):
        async with dial() as wire:
            await wire.send(*pieces)
            assert (await wire.frame()).payload[:2] == struct.pack("!H", 1003)


# -- text that is not UTF-8

NOT_UTF8 = {
    "lone continuation": b"\x80",
    "overlong slash": b"\xc0\xaf",
    "overlong NUL": b"\xe0\x80\x80",
    "surrogate": b"\xed\xa0\x80",
    "surrogate pair": b"\xed\xa0\x80\xed\xb0\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
    "five octets": b"\xf8\x88\x80\x80\x80",
    "cut short": b"\xce\xba\xe1\xbd",
    "0xFF": b"\xff",
}


@pytest.mark.parametrize("name", NOT_UTF8)
async def test_text_must_be_utf8_in_whole_and_in_fragments(dial: Dial, name: str) -> None:
    wrong = NOT_UTF8[name]
    text = b'{"id":2,"ping":{"x":"' + wrong + b'"}}'
    cut = text.index(wrong) + 1
    for pieces in ([frame(text)], [frame(wrong)], [frame(text[:cut], fin=False), frame(text[cut:], CONT)]):
        async with dial() as wire:
            await wire.send(*pieces)
            assert (await wire.frame()).payload[:2] == struct.pack("!H", 1007)


# -- too much


async def test_more_than_the_limit_is_refused_by_its_header_alone(dial: Dial) -> None:
    async with dial() as wire:
        await wire.send(frame(b" " * (MEBI + 1))[:14])
        assert await wire.closed() == 1009
    for size in (1 << 32, (1 << 63) - 1):
        async with dial() as wire:
            await wire.send(b"\x81\xff" + struct.pack("!Q", size) + bytes(4))
            assert await wire.closed() == 1009
    async with dial() as wire:  # the highest bit must not be set
        await wire.send(b"\x81\xff" + struct.pack("!Q", 1 << 63) + bytes(4))
        assert await wire.closed() in (1002, 1009)


async def test_fragments_together_keep_the_limit(dial: Dial) -> None:
    half = MEBI // 2
    async with dial() as wire:
        text = padded(MEBI)
        assert await wire.ask(frame(text[:half], fin=False), frame(text[half:], CONT)) == {"id": 7, "ping": {}}
        await wire.send(frame(b" " * half, fin=False), frame(b" " * half, CONT, fin=False))
        await wire.send(frame(b"x" * 100, CONT)[:6])
        assert await wire.closed() == 1009


# -- closing


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 3000, 3999, 4000, 4999])
async def test_a_close_is_answered_with_its_code(dial: Dial, code: int) -> None:
    async with dial() as wire:
        await wire.send(frame(struct.pack("!H", code) + "پایان".encode(), CLOSE))
        assert await wire.closed() == code


async def test_a_close_without_a_code_is_answered_without(dial: Dial) -> None:
    async with dial() as wire:
        await wire.send(frame(b"", CLOSE))
        assert await wire.closed() == NO_CODE


async def test_the_reason_of_a_close_is_utf8_of_at_most_123_bytes(dial: Dial) -> None:
    async with dial() as wire:
        await wire.send(frame(b"\x03\xe8" + b"x" * 123, CLOSE))
        assert await wire.closed() == 1000
    async with dial() as wire:
        await wire.send(frame(b"\x03\xe8\xce\xba\xe1\xbd", CLOSE))
        assert await wire.closed() == 1007


async def test_nothing_counts_after_a_close(dial: Dial) -> None:
    async with dial() as wire, dial() as other:
        late = b'{"id":2,"publish":{"channel":"conform-closed","data":1}}'
        await wire.send(frame(b"\x03\xe8", CLOSE), frame(b"late", PING), frame(late))
        assert await wire.closed() == 1000
        assert (await other.ask(frame(b'{"id":2,"history":{"channel":"conform-closed"}}')))["history"]["offset"] == 0


async def test_a_close_may_come_inside_a_fragmented_message(dial: Dial) -> None:
    async with dial() as wire:
        await wire.send(frame(b'{"id"', fin=False), frame(b"\x03\xe8", CLOSE))
        assert await wire.closed() in (1000, 1002)  # it breaks the message off, which websockets counts as an error


async def test_the_servers_own_close_waits_for_the_answer(dial: Dial) -> None:
    async with dial() as wire:
        await wire.send(frame(b"not json"))
        got = await wire.frame()
        assert got.opcode == CLOSE and got.payload[:2] == struct.pack("!H", 3501)
        await wire.send(frame(b"", PING), frame(got.payload, CLOSE))
        async with asyncio.timeout(PATIENCE):
            assert await wire.reader.read() in (b"", bytes([0x80 | PONG, 0]))  # no data; a pong may still come


async def test_an_error_while_messages_arrive_is_the_last_word(dial: Dial) -> None:
    """Replies that Redis still owes are not sent behind the close frame."""
    async with dial() as wire:
        asked = [frame(b'{"id":%d,"history":{"channel":"conform-1","limit":1}}' % n) for n in range(2, 30)]
        await wire.send(*asked)
        await wire.send(frame(b"{}", opcode=3))
        while (got := await wire.frame()).opcode == TEXT:
            pass
        assert got.opcode == CLOSE
        assert await wire.reader.read() == b""


# -- the handshake


async def test_the_handshake_is_answered_with_the_keys_digest(server: PeykServer) -> None:
    digest = hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    async with shake(server, HANDSHAKE) as (status, headers, _):
        assert status == 101 and headers["sec-websocket-accept"] == base64.b64encode(digest).decode()
        assert headers["upgrade"].lower() == "websocket" and headers["connection"].lower() == "upgrade"


async def test_extensions_that_are_offered_are_not_used(server: PeykServer) -> None:
    offer = {"Sec-WebSocket-Extensions": "permessage-deflate", "Sec-WebSocket-Protocol": "chat"}
    async with shake(server, HANDSHAKE | offer) as (status, headers, _):
        assert status == 101 and not headers.keys() & {"sec-websocket-extensions", "sec-websocket-protocol"}


@pytest.mark.parametrize("empty", ["", " ", "\t"])
async def test_an_empty_list_of_subprotocols_is_none(server: PeykServer, empty: str) -> None:
    """Older SDKs send one."""
    async with shake(server, HANDSHAKE | {"Sec-WebSocket-Protocol": empty}) as (status, headers, wire):
        assert status == 101 and "sec-websocket-protocol" not in headers
        assert "connect" in await wire.ask(frame(b'{"id":1,"connect":{}}'))


@pytest.mark.parametrize(
    ("changes", "path", "status"),
    [
        ({"Sec-WebSocket-Version": "8"}, "", 426),
        ({"Sec-WebSocket-Version": "14"}, "", 426),
        ({"Sec-WebSocket-Version": None}, "", 400),
        ({"Sec-WebSocket-Key": None}, "", 400),
        ({"Sec-WebSocket-Key": "short"}, "", 400),
        ({"Sec-WebSocket-Key": "!" * 24}, "", 400),
        ({"Connection": None}, "", 404),  # then it is plain HTTP, and there is no such page
        ({"Upgrade": None}, "", 404),
        ({"Upgrade": "h2c"}, "", 404),
        ({}, "/connection/other", 404),
        ({}, "/", 404),
        ({}, "/health", 404),
    ],
)
async def test_a_wrong_handshake(server: PeykServer, changes: dict[str, Any], path: str, status: int) -> None:
    headers = {name: value for name, value in (HANDSHAKE | changes).items() if value is not None}
    async with shake(server, headers, path or "/connection/websocket") as (got, answered, _):
        assert got == status
        assert got != 426 or answered["sec-websocket-version"] == "13"
