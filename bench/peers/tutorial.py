"""The chat of the usual tutorial: Starlette, a set of sockets for each channel, one listener on Redis Pub/Sub."""

import asyncio
import json
import os
from collections import defaultdict
from contextlib import asynccontextmanager

import redis.asyncio as redis
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

broker = redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
channels: dict[str, set[WebSocket]] = defaultdict(set)


async def chat(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            message = await websocket.receive_json()
            if "subscribe" in message:
                channels[message["subscribe"]].add(websocket)
                await websocket.send_json({"subscribed": message["subscribe"]})
            else:
                body = {"channel": message["publish"], "text": message["text"]}
                await broker.publish("chat:" + message["publish"], json.dumps(body, separators=(",", ":")))
    except WebSocketDisconnect:
        for members in channels.values():
            members.discard(websocket)


async def listen() -> None:
    async with broker.pubsub() as pubsub:
        await pubsub.psubscribe("chat:*")
        async for message in pubsub.listen():
            if message["type"] == "pmessage":
                for websocket in list(channels[message["channel"].removeprefix("chat:")]):
                    await websocket.send_text(message["data"])


@asynccontextmanager
async def lifespan(app: Starlette):  # type: ignore[no-untyped-def]
    listener = asyncio.create_task(listen())
    yield
    listener.cancel()


app = Starlette(routes=[WebSocketRoute("/ws", chat)], lifespan=lifespan)

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning")
