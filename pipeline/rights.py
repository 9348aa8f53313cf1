"""What Peyk will ask of Redis, tried at the start: every command, key and Pub/Sub name.

So a right that the Redis user lacks is named before the first message, and not by it. Each command is tried on a key
that holds a short text, so none of them changes anything: Redis looks at the rights first and at the type next.
"""

from collections.abc import Sequence

from pipeline.keys import Keys
from pipeline.resp import Command, Connection, ReplyError

_PROBE_MS = 10_000
_MANY = 4  # patterns or commands that are missing before all are advised
_COMMANDS = """
GET k
EXISTS k
DEL k?
EXPIRE k 1 GT
PEXPIRE k 1 GT
PTTL k
TTL k
INCRBY k 0
INCR k
TIME
HSET k f v
HSETNX k f v
HGET k f
HMGET k f
HGETALL k
HEXISTS k f
HVALS k
HLEN k
HINCRBY k f 0
HDEL k f
SADD k m
SREM k m
SISMEMBER k m
SMEMBERS k
SCARD k
ZADD k 0 m
ZREM k m
ZRANGE k 0 0
ZREMRANGEBYRANK k 0 0
ZREVRANGE k 0 0
ZSCORE k m
ZCARD k
ZRANGEBYLEX k - +
ZRANGEBYSCORE k 0 0
XADD k NOMKSTREAM * f v
XDEL k 0-1
XLEN k
XRANGE k - +
XREVRANGE k + -
XTRIM k MINID 0
XACK k g 0-1
XPENDING k g
XINFO GROUPS k
XGROUP CREATE k g 0
XREADGROUP GROUP g c STREAMS k >
SCRIPT LOAD return
EVAL return 0
EVALSHA 0 0
MULTI
EXEC
CLIENT ID
"""


async def missing(connection: Connection, keys: Keys) -> list[str]:
    """The rules that the Redis user of this connection lacks, as ACL SETUSER takes them.

    The connection ends as one of Pub/Sub. Raises ReplyError where Redis takes no writes at all.
    """
    probe = keys.batch(0, "probe")
    patterns = keys.patterns()
    first: list[Command] = [["SET", probe, "0", "PX", _PROBE_MS], ["PUBLISH", keys.pubsub(""), ""]]
    tried: list[Command] = []
    for key in patterns.values():
        tried += [["EXISTS", key], ["SREM", key, "?"]]
    replies = await connection.pipeline([*first, *tried])
    if isinstance(replies[0], ReplyError):
        if not _is_refusal(replies[0]):
            raise replies[0]
        if "command" in str(replies[0]):
            return ["~*", "&*", "+@all"]  # without a key to try the others on
    else:
        replies += await connection.pipeline([_on(probe, line) for line in _COMMANDS.strip().splitlines()])
    for name in (keys.control, keys.pubsub("")):
        replies += await connection.pipeline([["SUBSCRIBE", name]])
    return _rules(replies, list(patterns), len(first))


def _on(key: str, line: str) -> Command:
    return [word.replace("k", key) if word in ("k", "k?") else word for word in line.split()]


def _is_refusal(reply: object) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith("NOPERM")


def _rules(replies: Sequence[object], patterns: Sequence[str], first: int) -> list[str]:
    """What would mend the refusals among the replies; those of `patterns` begin at `first`, two for each."""
    commands: list[str] = []
    lacking: list[str] = []
    channels: list[str] = []
    for place, reply in enumerate(replies):
        if not _is_refusal(reply):
            continue
        text = str(reply)
        if "command" in text and "'" in text:
            commands.append("+" + text.split("'")[1].lower())
        elif "channel" in text:
            channels = ["&*"]
        elif 0 <= (place - first) // 2 < len(patterns):
            lacking.append("~" + patterns[(place - first) // 2])
        else:
            lacking.append("~*")
    commands = list(dict.fromkeys(commands))
    lacking = list(dict.fromkeys(lacking))
    return [
        *(["~*"] if len(lacking) > _MANY or "~*" in lacking else lacking),
        *channels,
        *(["+@all"] if len(commands) > _MANY else commands),
    ]
