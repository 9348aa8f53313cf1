"""Every Redis key, and the partition a channel belongs to. No other file spells a key."""

import re
from binascii import crc_hqx
from dataclasses import dataclass

from redis_config import Address, ConfigError, Settings

NODES = "nodes"
CHANNELS = "channels"
REVOKED, REVOKED_ORDER = "revoked", "revoked:order"
SECRET = "secret"
ACCOUNTS = "accounts"
PARTITIONS = "partitions"  # how many logs there are, written at first use
READY = "ready"  # when somebody last asked whether Redis takes writes; expires
DEMO = "demo"  # there where all that is stored is the demo's
_CONTROL = "control"
_SENDER = "_sender"
_DATABASE = re.compile(r"db\d+:")
_NAMES = (NODES, CHANNELS, REVOKED, REVOKED_ORDER, SECRET, ACCOUNTS, PARTITIONS, READY, DEMO)
_OTHERS = (
    _CONTROL, *_NAMES, "presence:", "node:", "user:", "account:", "attempts:", "places:", "asks:", "asked:", "log:",
    "lease:", "dead:", "archive:", "idem:", "batch:", "event:", "rpc:", "made:",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Keys:
    """Key names for one installation: its two prefixes and its number of partitions.

    Pub/Sub knows no databases, so the names there carry the database: `db5:channel:general`. Those of database 0 stay
    plain, as they are documented and as other programs listen to them.
    """

    channel_prefix: str
    message_prefix: str
    partitions: int
    database: int = 0

    @classmethod
    def of(cls, settings: Settings) -> "Keys":
        """Raises ConfigError if a prefix could make a key, or a Pub/Sub name, that is another's."""
        database = Address.parse(settings).db
        names = {"CHANNEL_PREFIX": settings.channel_prefix, "MESSAGE_PREFIX": settings.message_prefix}
        for name, prefix in names.items():
            if _DATABASE.match(prefix):
                raise ConfigError(f"{name}={prefix} looks like a name of another database's; take another prefix")
            for other in (*_OTHERS, *(p for n, p in names.items() if n != name)):
                if prefix.startswith(other) or other.startswith(prefix):
                    raise ConfigError(f"{name}={prefix} could make a key that begins with {other}; take another prefix")
        return cls(settings.channel_prefix, settings.message_prefix, settings.partitions, database)

    def partition(self, channel: str) -> int:
        """The partition whose log carries `channel`: CRC16 (XMODEM, as Redis Cluster hashes) modulo PARTITIONS."""
        return crc_hqx(channel.encode(), 0) % self.partitions

    def channel(self, channel: str) -> str:
        """Hash: id, name, description, created_at, owner, epoch, offset."""
        return self.channel_prefix + channel

    @property
    def _scope(self) -> str:
        return f"db{self.database}:" if self.database else ""

    @property
    def control(self) -> str:
        """The Pub/Sub name on which nodes tell each other what changed."""
        return self._scope + _CONTROL

    def pubsub(self, channel: str) -> str:
        """The Pub/Sub name on which the fan-out tells what was said in a channel."""
        return f"{self._scope}{self.channel_prefix}{channel}"

    def channel_of(self, name: bytes) -> str:
        """The channel whose Pub/Sub name is `name`."""
        return name.decode()[len(self._scope) + len(self.channel_prefix) :]

    def history(self, channel: str) -> str:
        """Stream: what was said. Entry id `<offset>-<ms>`; fields user, client, data."""
        return self.message_prefix + channel

    def tombstone(self, channel: str) -> str:
        """String with a time to live: this channel was deleted, not lost."""
        return f"{self.channel_prefix}{channel}:deleted"

    def subscribers(self, channel: str) -> str:
        """Set of user ids."""
        return f"{self.channel_prefix}{channel}:subscribers"

    def roles(self, channel: str) -> str:
        """Hash: user id → role, of those that have one."""
        return f"{self.channel_prefix}{channel}:roles"

    def presence(self, channel: str) -> str:
        """Hash: client → "<node> <info>". Present while the node's lease lives."""
        return "presence:" + channel

    def is_taken(self, name: str) -> bool:
        """Whether the Pub/Sub name `name`, or the one replies to it would go to, is ours, of whichever database."""
        plain = _DATABASE.sub("", name, count=1) if _DATABASE.match(name) else name
        return plain.startswith(self.channel_prefix) or reply_channel(plain) == _CONTROL

    def patterns(self) -> dict[str, str]:
        """The patterns that all keys match, each with a key that matches it."""
        prefixes = [self.channel_prefix, self.message_prefix, *(other for other in _OTHERS if other.endswith(":"))]
        return {f"{prefix}*": f"{prefix}?" for prefix in prefixes} | {name: name for name in _NAMES}

    @staticmethod
    def present_at(node: str) -> str:
        """Set: the channels a node has clients in."""
        return f"node:{node}:channels"

    @staticmethod
    def user(user: str) -> str:
        """Hash: id, username."""
        return f"user:{user}"

    @staticmethod
    def account(user: str) -> str:
        """Hash: username, password (an argon2 hash), created_at."""
        return f"account:{user}"

    @staticmethod
    def attempts(user: str) -> str:
        """Hash with a time to live: place → wrong passwords for a name; the empty place is all that are unknown."""
        return f"attempts:{user}"

    @staticmethod
    def made(who: str) -> str:
        """Number with a time to live: the channels a user, or an address, made within the hour."""
        return f"made:{who}"

    @staticmethod
    def places(user: str) -> str:
        """Sorted set with a time to live: digests of the addresses a user signed in from last."""
        return f"places:{user}"

    @staticmethod
    def asks(user: str) -> str:
        """Sorted set: the channels of two that a user was asked into, by time (Unix s)."""
        return f"asks:{user}"

    @staticmethod
    def asked(user: str) -> str:
        """Sorted set with a time to live: those a user asked somebody into and that wait, by time."""
        return f"asked:{user}"

    @staticmethod
    def user_channels(user: str) -> str:
        """Set of channel ids the user joined."""
        return f"user:{user}:channels"

    @staticmethod
    def read(user: str) -> str:
        """Hash: channel id → the offset up to which the user has read it."""
        return f"user:{user}:read"

    @staticmethod
    def log(partition: int) -> str:
        """Stream: one entry per append batch; what the consumer groups work through."""
        return f"log:{partition}"

    @staticmethod
    def lease(group: str, partition: int) -> str:
        """String with a time to live: the node that plays this consumer now."""
        return f"lease:{group}:{partition}"

    @staticmethod
    def dead(group: str) -> str:
        """Stream: what a group could not handle. Fields reason, count, log, channel, message."""
        return f"dead:{group}"

    @staticmethod
    def archive(group: str) -> str:
        """Hash of a sink: database (the id of the one it fills); channel, epoch, offset, ms of what it stored last."""
        return f"archive:{group}"

    @staticmethod
    def idempotency(channel: str, user: str, key: str) -> str:
        """String with a time to live: the position already given to this key."""
        return f"idem:{channel}:{user}:{key}"

    @staticmethod
    def batch(partition: int, batch: str) -> str:
        """String with a time to live: the reply an append batch already got."""
        return f"batch:{partition}:{batch}"

    @staticmethod
    def event(channel: str, id: str) -> str:
        """String with a time to live: a channel's stored event, or that it has none (bridge/cache.py)."""
        return f"event:{channel} {id}"  # a channel has no blank in it, an id may have anything

    @staticmethod
    def holders(id: str) -> str:
        """Sorted set with a time to live: channels with an event of that id, by the time of the first; "": none has."""
        return f"event: {id}"

    @staticmethod
    def rpc_claim(request: str) -> str:
        """String with a time to live: the node that acts on this request."""
        return f"rpc:{request}"


def request_channel(channel: str) -> str:
    """The Pub/Sub name of requests whose replies come on `channel`."""
    return channel + _SENDER


def reply_channel(name: str) -> str:
    """The Pub/Sub name of the replies to requests that come on `name`; empty: it is no name of requests."""
    return name.removesuffix(_SENDER) if name.endswith(_SENDER) else ""
