"""What RabbitMQ tells only over its management plugin: messages in hand, users, connections. For `status`.

The plugin is asked with the user of AMQP_URL, and shows that user what its tags allow.
"""

import asyncio
import base64
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from yarl import URL

from pipeline.ports import BrokerConnection, BrokerUser, Overview, QueueState

logger = logging.getLogger(__name__)

PAGE = 100  # queues, or connections, that are shown
_PATIENCE = 2  # seconds for an answer
_BYTES = 4 * 1024 * 1024  # of an answer
_TURN_ON = "rabbitmq-plugins enable rabbitmq_management turns it on; AMQP_MANAGEMENT_URL says where it listens"


def address_of(broker: URL) -> str:
    """Where the plugin of a broker listens, with TLS if the broker does: it is told the same password."""
    secure = broker.scheme == "amqps"
    address = URL.build(scheme="https" if secure else "http", host=broker.host or "", port=15671 if secure else 15672)
    return str(address).rstrip("/")


class Management:
    """Asks the plugin of the first node that answers."""

    def __init__(self, brokers: Sequence[URL], url: str = "") -> None:
        named = [one.strip().rstrip("/") for one in url.split(",") if one.strip()]
        self._addresses = named or [address_of(broker) for broker in brokers]
        self._user = brokers[0].user or "guest"
        login = f"{self._user}:{brokers[0].password or 'guest'}"
        self._login = "Basic " + base64.b64encode(login.encode()).decode()
        vhost = brokers[0].path.removeprefix("/") or "/"
        self._vhost = quote(vhost, "")

    async def unacknowledged(self, queue: str) -> int | None:
        """What consumers of a queue have in hand, up to 5 s old. None: it cannot be asked."""
        try:
            count = (await self._get(f"queues/{self._vhost}/{quote(queue, '')}")).get("messages_unacknowledged")
        except (OSError, ValueError, AttributeError) as error:
            logger.info("the management plugin does not answer: %s", error)
            return None
        return count if isinstance(count, int) else None

    async def overview(self) -> Overview:
        """Queues, users and connections; what cannot be shown is said instead."""
        notes: list[str] = []
        page = f"?page=1&page_size={PAGE}"
        asked = {"queues": f"queues/{self._vhost}{page}", "connections": f"connections{page}", "users": "users"}
        found: dict[str, list[dict[str, Any]]] = {what: [] for what in asked}
        for what, path in asked.items():
            try:
                reply = await self._get(path)
            except urllib.error.HTTPError as error:
                tag = "administrator" if what == "users" else "monitoring"
                notes.append(
                    f"{what}: RabbitMQ shows them to users with the tag {tag} ({error.code}): "
                    f"rabbitmqctl set_user_tags {self._user} {tag}"
                )
                continue
            except (OSError, ValueError) as error:
                notes.append(f"users, connections: no management plugin at {self._where} ({error}); {_TURN_ON}")
                break
            items = reply.get("items", []) if isinstance(reply, dict) else reply
            found[what] = [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
            if isinstance(reply, dict) and reply.get("filtered_count", 0) > PAGE:
                notes.append(f"{what}: the first {PAGE} of {reply['filtered_count']}")
        connections = [_connection(one) for one in found["connections"]]
        return Overview([*map(_queue, found["queues"])], [*map(_user, found["users"])], connections, notes)

    @property
    def _where(self) -> str:
        return ", ".join(self._addresses)

    async def _get(self, path: str) -> Any:
        """Raises OSError and ValueError."""
        for address in self._addresses[:-1]:
            try:
                return await asyncio.to_thread(self._ask, address, path)
            except urllib.error.HTTPError:
                raise
            except OSError as error:
                logger.info("no management plugin at %s: %s", address, error)
        return await asyncio.to_thread(self._ask, self._addresses[-1], path)

    def _ask(self, address: str, path: str) -> Any:
        request = urllib.request.Request(f"{address}/api/{path}")
        request.add_header("Authorization", self._login)
        with urllib.request.urlopen(request, timeout=_PATIENCE) as reply:
            return json.loads(reply.read(_BYTES))


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _queue(item: dict[str, Any]) -> QueueState:
    ready, unacked, consumers = [
        _number(item.get(name)) for name in ("messages_ready", "messages_unacknowledged", "consumers")
    ]
    return QueueState(_text(item.get("name")), ready, unacked, consumers)


def _user(item: dict[str, Any]) -> BrokerUser:
    return BrokerUser(_text(item.get("name")), _text(item.get("tags")))


def _connection(item: dict[str, Any]) -> BrokerConnection:
    told = item.get("client_properties")
    name = _text(told.get("connection_name") or told.get("product")) if isinstance(told, dict) else ""
    peer = f"{_text(item.get('peer_host'))}:{_number(item.get('peer_port'))}"
    state = _text(item.get("state"))
    return BrokerConnection(
        _text(item.get("user")), peer, name, _text(item.get("vhost")), state, _number(item.get("channels"))
    )
