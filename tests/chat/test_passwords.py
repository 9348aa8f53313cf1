"""Passwords: one thread, two lanes, and none of them longer than it may be."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chat.errors import TooManyRequests
from chat.passwords import Passwords
from tests.services import until

ROOM = 4
PASSWORD = "a long password"


@pytest.fixture
async def passwords() -> AsyncIterator[Passwords]:
    passwords = Passwords(ROOM)
    yield passwords
    passwords.close()


class Held:
    """A hasher whose checks go on when they are told to; it counts those at work together."""

    def __init__(self, passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go, self.done, self.at_once, self.most = threading.Event(), list[str](), 0, 0
        monkeypatch.setattr(passwords, "_matches", self.check)

    def check(self, hashed: str, password: str) -> bool:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        assert self.go.wait(30)
        self.at_once -= 1
        self.done.append(password)
        return True


async def test_what_was_hashed_is_known_again(passwords: Passwords) -> None:
    hashed = await passwords.hash(PASSWORD)
    assert await passwords.match(hashed, PASSWORD) and await passwords.match(hashed, PASSWORD, known=True)
    assert not await passwords.match(hashed, "another password")
    assert not await passwords.match("", "nobody has this password!")  # no account: checked all the same
    assert not await passwords.match(hashed, "x" * 257)


async def test_known_places_go_first_and_one_at_a_time(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(passwords, monkeypatch)
    strangers = [asyncio.create_task(passwords.match("", f"stranger {n}")) for n in range(ROOM)]
    await until(lambda: held.at_once == 1)
    known = [asyncio.create_task(passwords.match("", f"known {n}", known=True)) for n in range(ROOM)]
    await asyncio.sleep(0)  # they stand in line
    held.go.set()
    assert all(await asyncio.gather(*strangers, *known))
    assert held.done == ["stranger 0", *(f"known {n}" for n in range(ROOM)), *(f"stranger {n}" for n in (1, 2, 3))]
    assert held.most == 1


@pytest.mark.parametrize("known", [False, True])
async def test_a_full_lane_refuses_and_leaves_the_other_alone(
    passwords: Passwords, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    held = Held(passwords, monkeypatch)
    first = asyncio.create_task(passwords.match("", "at work", known=known))
    await until(lambda: held.at_once == 1)
    waiting = [asyncio.create_task(passwords.match("", "waits", known=known)) for _ in range(ROOM)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests) as refused:
        await passwords.match("", "one too many", known=known)
    assert refused.value.retry_after and refused.value.limit == "sign_in_queue"
    other = asyncio.create_task(passwords.match("", "another lane", known=not known))
    held.go.set()
    assert all(await asyncio.gather(first, other, *waiting))


async def test_whoever_hangs_up_gives_its_place_away(passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(passwords, monkeypatch)
    at_work, waits, stays = [asyncio.create_task(passwords.match("", name)) for name in ("at work", "waits", "stays")]
    await until(lambda: held.at_once == 1)
    for task in (at_work, waits):
        task.cancel()
    await asyncio.gather(at_work, waits, return_exceptions=True)
    held.go.set()
    assert await stays
    assert held.done == ["at work", "stays"]


async def test_the_loop_goes_on_meanwhile(passwords: Passwords) -> None:
    """A hash is made in its thread: the loop turns many times before it is done."""
    turns, work = 0, asyncio.create_task(passwords.hash(PASSWORD))
    while not work.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 10, turns
    result: Any = await work
    assert result.startswith("$argon2id$")
