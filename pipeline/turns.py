"""A turn of the event loop for each: many answers that come at once do not stand in others' way together."""

import asyncio


class Turns:
    """Given to one after the other, in the order they ask."""

    def __init__(self) -> None:
        self._giving = asyncio.Lock()

    async def take(self) -> None:
        """Go on in a turn of its own: what follows, up to the next await, is all that others wait for."""
        async with self._giving:
            await asyncio.sleep(0)
