"""python-socketio behind uvicorn, with its Redis manager (Pub/Sub), as its documentation has it."""

import os

import socketio
import uvicorn

server = socketio.AsyncServer(async_mode="asgi", client_manager=socketio.AsyncRedisManager(os.environ["REDIS_URL"]))


@server.event
async def join(sid: str, channel: str) -> None:
    await server.enter_room(sid, channel)


@server.event
async def publish(sid: str, channel: str, text: str) -> None:
    await server.emit("message", (channel, text), room=channel)


if __name__ == "__main__":
    uvicorn.run(socketio.ASGIApp(server), port=int(os.environ["PORT"]), log_level="warning")
