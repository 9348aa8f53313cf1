"""Turns: few go on in a turn of the loop, however many were ready."""

import asyncio
from itertools import groupby

from pipeline.turns import AT_ONCE, Turns


async def test_few_go_on_in_a_turn_and_all_in_order() -> None:
    turns = Turns()
    seen: list[int | None] = []

    async def work(number: int) -> None:
        await turns.take()
        seen.append(number)

    async def neighbour() -> None:
        while True:
            seen.append(None)
            await asyncio.sleep(0)

    beside = asyncio.create_task(neighbour())
    many = 5 * AT_ONCE + 1
    await asyncio.gather(*map(work, range(many)))
    late = [asyncio.create_task(work(many + number)) for number in range(2 * AT_ONCE)]
    await asyncio.gather(*late)
    beside.cancel()
    assert [number for number in seen if number is not None] == list(range(many + len(late)))
    assert max(len(list(run)) for busy, run in groupby(seen, lambda number: number is not None) if busy) == AT_ONCE


async def test_who_gives_up_takes_nobodys_turn() -> None:
    turns = Turns()
    done: list[int] = []

    async def work(number: int) -> None:
        await turns.take()
        done.append(number)

    tasks = [asyncio.create_task(work(number)) for number in range(3 * AT_ONCE)]
    await asyncio.sleep(0)
    given_up = {AT_ONCE, AT_ONCE + 2}
    for number in given_up:
        tasks[number].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert done == [number for number in range(3 * AT_ONCE) if number not in given_up]
