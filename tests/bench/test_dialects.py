"""load.c where another protocol is spoken: Engine.IO and Socket.IO, whose server has the first word."""

import asyncio
import json

from tests.bench.test_load import PONG, Server, broken, frame, listening, load


class SocketIO(Server):
    """Broadcasts to whoever joined; pings as Engine.IO does."""

    path = b"GET /socket.io/?EIO=4&transport=websocket "
    first = b'0{"sid":"x","pingInterval":25000}'

    async def on_frame(self, opcode: int, payload: bytes, writer: asyncio.StreamWriter) -> None:
        if opcode == PONG:
            self.pongs += 1
        elif payload == b"40":
            writer.write(frame(b'40{"sid":"y"}'))
        elif payload == b"3":
            self.answered_pings += 1
        elif payload.startswith(b"420"):
            assert json.loads(payload[3:]) == ["join", "c0"]
            self.subscribers.append(writer)
            writer.write(frame(b"430[]") + frame(b"2"))
        elif payload.startswith(b"42"):
            event, channel, text = json.loads(payload[2:])
            assert event == "publish"
            message = json.dumps(["message", channel, text], separators=(",", ":")).encode()
            self.lines.append(b"42" + message)
            for subscriber in self.subscribers:
                subscriber.write(frame(self.lines[-1]))


async def test_socketio_is_spoken() -> None:
    async with listening(SocketIO()) as server:
        code, report = await load(server, "-D", "socketio", "-r", "100", "-d", "0.3")
    assert (code, broken(report)) == (0, {})
    assert report["delivered"] == 3 * len(server.lines) > 0 and server.answered_pings == 3


async def test_what_a_dialect_has_not_is_refused() -> None:
    async with listening(SocketIO()) as server:
        assert await load(server, "-D", "socketio", "-R", "x:1") == (2, {})
        assert await load(server, "-D", "nothing", "-r", "1") == (2, {})
