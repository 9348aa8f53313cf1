"""Work that lasts: a fault does not end it."""

import asyncio

import pytest

from pipeline import lasting as module
from pipeline.lasting import lasting


async def test_work_that_fails_begins_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "_WAIT", 0)
    turns = 0

    async def work() -> None:
        nonlocal turns
        turns += 1
        if turns < 3:
            raise ValueError("not in this turn")

    await lasting(work)
    assert turns == 3 and len(caplog.records) == 2


async def test_it_ends_when_it_is_cancelled() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = lasting(work)
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
