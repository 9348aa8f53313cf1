"""Turns: one task goes on in a turn of the loop, however many were ready."""

import asyncio

from pipeline.turns import Turns


async def test_who_gives_up_takes_nobodys_turn() -> None:
    turns, done = Turns(), list[int]()

    async def work(number: int) -> None:
        await turns.take()
        done.append(number)

    tasks = [asyncio.create_task(work(number)) for number in range(5)]
    await asyncio.sleep(0)
    for given_up in (0, 2):
        tasks[given_up].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert done == [1, 3, 4]
