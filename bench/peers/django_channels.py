"""Django Channels with channels_redis, behind uvicorn: the consumer of its tutorial in one file."""

import os
from typing import Any

import django
import uvicorn
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.urls import path

settings.configure(
    SECRET_KEY="only for a benchmark",
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            # By default a channel that holds 100 messages loses what comes then.
            "CONFIG": {"hosts": [os.environ["REDIS_URL"]], "capacity": 10_000},
        }
    },
)
django.setup()


class Chat(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content: dict[str, Any], **kwargs: Any) -> None:
        if "subscribe" in content:
            await self.channel_layer.group_add(content["subscribe"], self.channel_name)
            await self.send_json({"subscribed": content["subscribe"]})
        else:
            message = {"type": "chat.message", "channel": content["publish"], "text": content["text"]}
            await self.channel_layer.group_send(content["publish"], message)

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send_json({"channel": event["channel"], "text": event["text"]})


app = ProtocolTypeRouter({"websocket": URLRouter([path("ws", Chat.as_asgi())])})

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), log_level="warning", lifespan="off")
