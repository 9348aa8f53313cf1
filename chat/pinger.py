"""Signs of life: one timer asks all clients of a node for them, and ends those who never say who they are.

It also ends whoever's credentials are over, clients and event streams alike.
"""

import asyncio
import time
from collections.abc import Collection

from chat.events import EventStream
from chat.metrics import count
from chat.session import Session
from pipeline.lasting import end, lasting

NO_CONNECT = 3501, "connect first"


class Pinger:
    """One timer for all sockets: each is pinged every `interval` seconds, spread evenly over it."""

    def __init__(self, interval: int, connect_timeout: int) -> None:
        self._slots: list[set[Session]] = [set() for _ in range(max(1, interval))]
        self._places: dict[Session, int] = {}
        self._new: dict[Session, float] = {}
        self.streams: set[EventStream] = set()
        self._timeout = connect_timeout
        self._now = 0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = lasting(self._run)

    async def close(self) -> None:
        await end(self._task)

    @property
    def sessions(self) -> Collection[Session]:
        """Every client of this node."""
        return self._places.keys()

    def add(self, session: Session) -> None:
        place = self._places[session] = self._now % len(self._slots)
        self._slots[place].add(session)
        self._new[session] = asyncio.get_running_loop().time() + self._timeout

    def remove(self, session: Session) -> None:
        self._slots[self._places.pop(session)].discard(session)
        self._new.pop(session, None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 1
            await asyncio.sleep(1)
            if loop.time() > due + 1:
                continue  # it was us who stood still: the pongs are still to be read
            self._now += 1
            for session, deadline in list(self._new.items()):
                if session.user is not None:
                    del self._new[session]
                elif loop.time() > deadline:
                    count("connect")
                    session.drop(*NO_CONNECT)
            for session in list(self._slots[self._now % len(self._slots)]):
                if session.user is not None and not session.closed:
                    session.ping()
            now = time.time()
            for session in list(self._places):
                session.expire(now)
            self._end_streams(now)

    def shut_out(self, users: frozenset[str]) -> None:
        """Tokens of these users were revoked, or of anybody (""): whoever came with one goes."""
        for session in list(self._places):
            if session.user is not None and (session.user.id in users or "" in users):
                session.check_revoked()
        self._end_streams(time.time())

    def _end_streams(self, now: float) -> None:
        for stream in list(self.streams):
            stream.expire(now)
