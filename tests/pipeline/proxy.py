"""A TCP proxy before Redis that can lose a reply, cut connections, or refuse them."""

import asyncio

from redis_config import Address


class Proxy:
    """Forwards to `target`. `cut_replies` = n: the next n replies that come after a request with `word` are lost."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self._server: asyncio.Server
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut_replies, self.word, self.refuse = 0, b"EVALSHA", False
        self.cuts = 0

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = Address("127.0.0.1", self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.cut()
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """End every connection now."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        if self.refuse:
            writer.transport.abort()
            return
        below, above = await asyncio.open_connection(self._target.host, self._target.port)
        self._writers.add(above)
        asked = [b""]

        async def forward() -> None:
            while data := await reader.read(1 << 16):
                asked[0] = data
                above.write(data)
            above.transport.abort()

        async def back() -> None:
            while data := await below.read(1 << 16):
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
