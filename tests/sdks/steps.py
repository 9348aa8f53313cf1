"""`python steps.py URL`: what an application does with centrifuge-python, whichever is on the path. Prints JSON."""

import asyncio
import json
import logging
import sys
import time
from typing import Any

from centrifuge import Client, SubscriptionState  # type: ignore[import-untyped, unused-ignore]

ROUNDS = 20
PATIENCE = 30.0  # seconds for anything to happen


async def until(holds: Any) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not await holds():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


async def connected(url: str, user: str) -> Any:
    client = Client(url, data={"user": user})
    await client.connect()
    await client.ready(PATIENCE)
    return client


async def main(url: str, prefix: str) -> dict[str, Any]:
    client = await connected(url, "sara")
    found: dict[str, Any] = {}

    early = await client.history(f"{prefix}-early", limit=10)
    found["early"] = {"offset": early.offset, "epoch": early.epoch, "publications": early.publications}
    found["earlyPresence"] = len((await client.presence(f"{prefix}-early")).clients)

    found["comesAndGoesAndComes"] = found["presentAtOnce"] = found["left"] = 0
    for round_ in range(ROUNDS):
        subscription = client.new_subscription(f"{prefix}-breath-{round_}")
        await asyncio.gather(subscription.subscribe(), subscription.unsubscribe(), subscription.subscribe())

        async def subscribed(subscription: Any = subscription) -> bool:
            return bool(subscription.state == SubscriptionState.SUBSCRIBED)

        found["comesAndGoesAndComes"] += await until(subscribed)

    for round_ in range(ROUNDS):
        subscription = client.new_subscription(f"{prefix}-here-{round_}")
        await subscription.subscribe()
        await subscription.ready(PATIENCE)
        clients = (await subscription.presence()).clients
        found["presentAtOnce"] += "sara" in [info.user for info in clients.values()]

    for round_ in range(ROUNDS):
        name = f"{prefix}-left-{round_}"
        passer = await connected(url, f"passer-{round_}")
        subscription = passer.new_subscription(name)
        await subscription.subscribe()
        await subscription.ready(PATIENCE)
        await subscription.unsubscribe()
        await passer.disconnect()

        async def left(name: str = name, user: str = f"passer-{round_}") -> bool:
            return user not in (await client.rpc("channels.subscribers", {"id": name})).data["subscribers"]

        found["left"] += await until(left)

    await client.disconnect()
    return found


if __name__ == "__main__":
    logging.disable()
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
