"""Passwords are hashed and checked on one thread, one at a time: who guesses may take that thread, never the server.

Two lanes wait for it. A sign-in from a place that is known for its name goes first, so that those who try names at
random delay nobody who was here before.
"""

import asyncio
import unicodedata
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from chat.errors import BadRequest, TooManyRequests

LIMITS = 8, 256  # characters
_RETRY = 1.0  # seconds after which a full lane has room again
Answer = TypeVar("Answer")


class Passwords:
    """`room` is how many may wait in each lane. Whoever finds a lane full is told to try again."""

    def __init__(self, room: int) -> None:
        self._room = room
        # OWASP's first choice of parameters for argon2id: each costs 20 MB and some 30 ms of a core.
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
        self._nobody = self._hasher.hash("nobody has this password")
        self._thread = ThreadPoolExecutor(1, "passwords")
        self._known: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._strangers: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._busy = False
        self._rest: asyncio.TimerHandle | None = None

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def check_room(self, known: bool) -> None:
        """Raises TooManyRequests if the lane is full."""
        if len(self._known if known else self._strangers) >= self._room:
            text = "many people sign in just now; try again in a moment"
            raise TooManyRequests(text, "sign_in_queue", _RETRY)

    async def hash(self, password: str, known: bool = False) -> str:
        """Raises BadRequest and TooManyRequests."""
        check_length(password)
        return await self._do(partial(self._hasher.hash, _normal(password)), known)

    async def match(self, hashed: str, password: str, known: bool = False) -> bool:
        """Whether `password` is the one that was hashed; without a hash it takes as long. Raises TooManyRequests."""
        if len(password) > LIMITS[1]:
            return False
        return await self._do(partial(self._matches, hashed or self._nobody, _normal(password)), known)

    def _matches(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password)
        except VerificationError:
            return False

    async def _do(self, work: Callable[[], Answer], known: bool) -> Answer:
        self.check_room(known)
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        (self._known if known else self._strangers).append((work, done))
        self._next()
        return await done

    def _next(self) -> None:
        """Give the thread what waits, if it is free; strangers rest as long as the last of them took."""
        while not self._busy:
            lane = self._known or (self._strangers if self._rest is None else None)
            if not lane:
                return
            work, done = lane.popleft()
            if done.cancelled():  # whoever asked is gone
                continue
            loop = asyncio.get_running_loop()
            self._busy = True
            finished = partial(self._finished, done, loop.time() if lane is self._strangers else None)
            loop.run_in_executor(self._thread, work).add_done_callback(finished)

    def _finished(self, done: "asyncio.Future[Any]", since: float | None, work: "asyncio.Future[Any]") -> None:
        loop = asyncio.get_running_loop()
        self._busy = False
        if since is not None:
            self._rest = loop.call_later(loop.time() - since, self._rested)
        if work.cancelled():  # closed
            done.cancel()
        elif not done.cancelled():
            error = work.exception()
            done.set_result(work.result()) if error is None else done.set_exception(error)
        self._next()

    def _rested(self) -> None:
        self._rest = None
        self._next()


def check_length(password: str) -> None:
    """Raises BadRequest."""
    low, high = LIMITS
    if not low <= len(password) <= high:
        raise BadRequest(f"a password has {low} to {high} characters")


def _normal(password: str) -> str:
    """One form of what different keyboards type as the same letters (RFC 8265)."""
    return unicodedata.normalize("NFC", password)
