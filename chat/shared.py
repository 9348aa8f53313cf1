"""One node for all who need one in an event loop, for as long as the loop lasts."""

import asyncio
from collections.abc import Callable

from chat.node import Node
from chat.settings import ServerSettings


class SharedNode:
    """Opened by the first who asks, closed with its event loop, as `asyncio.run` ends what is left, or by `close`."""

    def __init__(self, settings: Callable[[], ServerSettings]) -> None:
        self._settings = settings
        self._opened: asyncio.Future[Node] | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> Node:
        """The node. Raises what Redis has against it."""
        loop = asyncio.get_running_loop()
        opened, keeper = self._opened, self._keeper
        if opened is None or keeper is None or keeper.done() or keeper.get_loop() is not loop:
            opened = self._opened = loop.create_future()
            self._keeper = asyncio.create_task(self._keep(opened))
        return await asyncio.shield(opened)

    async def _keep(self, opened: "asyncio.Future[Node]") -> None:
        """Keep a node open until this task is cancelled."""
        try:
            async with Node(self._settings(), "terminal") as node:
                opened.set_result(node)
                await asyncio.Event().wait()
        except Exception as error:
            if opened.done():
                raise
            opened.set_exception(error)

    async def close(self) -> None:
        """End it now. It must be open in this event loop, or not at all."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None and keeper.get_loop() is asyncio.get_running_loop():
            keeper.cancel()
            await asyncio.wait([keeper])
