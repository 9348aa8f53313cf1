"""A TCP proxy before Redis that can lose a reply, cut connections, refuse them, or deafen who listens to Pub/Sub."""

import asyncio

from redis_config import Address


class Proxy:
    """Forwards to `target`, which may change for connections that come.

    What it does wrong is set from outside, at any time.

    `cut_replies` = n: the next n replies that come after a request with `word` are lost, with their connection.
    `stop_before` = word: what is sent from the first command of that name on is lost, with its connection.
    `flowing`: while it is clear, what the target says waits here.
    `refuse`: new connections are ended at once. `deafen`: who has subscribed hears nothing any more.
    """

    def __init__(self, target: Address) -> None:
        self.target = target
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()
        self._listeners: set[asyncio.StreamWriter] = set()  # the Pub/Sub connections among them
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut_replies, self.word, self.refuse, self.deafen, self.stop_before = 0, b"EVALSHA", False, False, b""
        self.cuts = self.deafened = 0
        self.flowing = asyncio.Event()
        self.flowing.set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = Address("127.0.0.1", self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.flowing.set()
        self.cut()
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self, listeners_only: bool = False) -> None:
        """End every connection now, or those of Pub/Sub."""
        for writer in self._listeners if listeners_only else self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.refuse:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            below, above = await asyncio.open_connection(self.target.host, self.target.port)
        except OSError:  # nobody there
            self._writers.discard(writer)
            writer.transport.abort()
            return
        self._writers.add(above)
        asked = [b""]

        async def forward() -> None:
            while data := await reader.read(1 << 16):
                asked[0] = data
                if b"\r\nSUBSCRIBE\r\n" in data:
                    self._listeners.add(writer)
                if self.stop_before and (name := b"\r\n%b\r\n" % self.stop_before) in data:
                    self.cuts += 1
                    above.write(data[: data.rindex(b"*", 0, data.index(name))])
                    await above.drain()
                    above.close()
                    writer.transport.abort()
                    return
                above.write(data)
            above.transport.abort()

        async def back() -> None:
            while data := await below.read(1 << 16):
                await self.flowing.wait()
                if self.deafen and writer in self._listeners:
                    self.deafened += 1
                    continue
                if self.cut_replies and self.word in asked[0]:
                    self.cut_replies -= 1
                    self.cuts += 1
                    break
                writer.write(data)
            writer.transport.abort()

        try:
            await asyncio.gather(forward(), back(), return_exceptions=True)
        finally:
            for one in (writer, above):
                one.transport.abort()
                self._writers.discard(one)
            self._listeners.discard(writer)
