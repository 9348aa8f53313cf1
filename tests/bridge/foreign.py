"""A foreign program that publishes to RabbitMQ, with pika; and what there is in a virtual host."""

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pika
import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel

from tests.services import RabbitProcess


class Host:
    """A virtual host of a private RabbitMQ."""

    def __init__(self, rabbit: RabbitProcess, name: str) -> None:
        self.rabbit, self.name = rabbit, name
        rabbit.manage("PUT", f"vhosts/{name}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        rabbit.manage("PUT", f"permissions/{name}/guest", everything)

    @property
    def url(self) -> str:
        return self.rabbit.url + self.name

    def close(self) -> None:
        self.rabbit.manage("DELETE", f"vhosts/{self.name}")

    @contextlib.contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(self.url))) as connection:
            yield connection.channel()

    def send(
        self, exchange: str, messages: Iterable[tuple[str, Any]], key: str = "", headers: dict[str, Any] | None = None
    ) -> int:
        """Publish (message id, body) pairs: bytes as they are, else JSON; how many. Without an id if it is empty.

        Each is confirmed: what a quorum queue has not confirmed may be lost when the publisher's channel ends.
        """
        count = 0
        with self.channel() as channel:
            channel.confirm_delivery()
            for id, body in messages:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                properties = pika.BasicProperties(delivery_mode=2, message_id=id or None, headers=headers)
                channel.basic_publish(exchange, key, data, properties)
                count += 1
        return count

    def take(self, queue: str) -> list[tuple[bytes, dict[str, Any]]]:
        """Take all that is ready in a queue: body and headers."""
        found: list[tuple[bytes, dict[str, Any]]] = []
        with self.channel() as channel:
            while True:
                frame, properties, body = channel.basic_get(queue, auto_ack=True)
                if frame is None:
                    return found
                found.append((body, dict(properties.headers or {})))

    def ready(self, queue: str) -> int:
        """How many messages wait in a queue; -1: there is none."""
        try:
            with self.channel() as channel:
                return int(channel.queue_declare(queue, passive=True).method.message_count)
        except pika.exceptions.ChannelClosedByBroker:
            return -1

    def consumers(self, queue: str) -> int:
        """How many consume a queue; -1: there is none."""
        try:
            with self.channel() as channel:
                return int(channel.queue_declare(queue, passive=True).method.consumer_count)
        except pika.exceptions.ChannelClosedByBroker:
            return -1

    def keeps(self, *queues: str) -> bool:
        """Whether these quorum queues work after a kill of the broker: it writes who they are once a second or so."""
        (names,) = self.rabbit.dir.glob("mnesia/*/quorum/*/names.dets")
        written = names.read_bytes()
        return all(f"{self.name}_{queue}".encode() in written for queue in queues)

    def connections(self) -> list[str]:
        """The names of the connections to this host that the management plugin knows."""
        found = self.rabbit.manage("GET", f"vhosts/{self.name}/connections")
        return [connection["name"] for connection in found]


class Limited(Host):
    """The same virtual host, as a user who may configure nothing."""

    def __init__(self, host: Host) -> None:
        self.rabbit, self.name = host.rabbit, host.name
        self.rabbit.manage("PUT", f"users/{self.name}", {"password": "limited", "tags": ""})
        rights = {"configure": "^$", "write": ".*", "read": ".*"}
        self.rabbit.manage("PUT", f"permissions/{self.name}/{self.name}", rights)

    @property
    def url(self) -> str:
        return f"amqp://{self.name}:limited@127.0.0.1:{self.rabbit.port}/{self.name}"
