"""A server with life in it, to look at: channels with some history, people and programs who talk now and then."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle

from chat.errors import PeykError
from chat.models import User, channel_id
from chat.node import Node
from chat.protocol import encode
from chat.settings import ServerSettings
from pipeline.content import json_line
from pipeline.keys import DEMO
from pipeline.resp import FAILURES
from pipeline.server import find, opened
from redis_config import ConfigError

PACE = 4.0, 12.0  # seconds between two messages
_WRITING = 2.0  # seconds that one is shown to write

_TOPICS = {
    "general": "Everything and nothing",
    "عمومی": "گپِ روزانه؛ همه خوش آمدید",
    "برنامه‌نویسی": "کد، پرسش و پاسخ",
    "deploys": "What went where, told by programs",
}
_GENERAL = [
    ("mina", "Morning all ☀️"),
    ("reza", "Morning! Did the import finish overnight?"),
    ("mina", "It did: 1.2 million rows, nothing lost. The numbers are at https://example.org/import"),
    ("reza", "> nothing lost\nThat is what I like to read."),
    ("arash", "سلام، من ترجمهٔ راهنما را تمام کردم. کسی نگاهی می‌اندازد؟"),
    ("mina", "I will, after lunch. Is it in `docs/fa.md`?"),
    ("arash", "بله، همان‌جا."),
    ("sahar", "How do I follow a channel from a shell?"),
    (
        "reza",
        "Like this:\n```sh\ncurl -N -H 'Accept: text/event-stream' localhost:5000/api/channels/general/messages\n```",
    ),
    ("sahar", "Oh, that is **nice**."),
    ("mina", "It also picks up where it stopped, with `Last-Event-ID`."),
    ("reza", "Unplug the cable while it runs. Really, try it."),
    ("sahar", "…it just went on. Not one line missing."),
]
_PERSIAN = [
    ("سارا", "صبح بخیر به همه"),
    ("آرش", "صبح بخیر! هوا امروز عالی است."),
    ("سارا", "جلسهٔ ساعت ۱۰ سر جایش هست؟"),
    ("آرش", "هست، ولی در اتاق کوچک."),
    ("نیما", "من ده دقیقه دیر می‌رسم؛ ترافیک **خیلی** سنگین است."),
    ("سارا", "عجله نکن، با چای شروع می‌کنیم."),
    ("آرش", "یادداشت جلسهٔ قبل اینجاست: https://example.org/notes"),
    ("نیما", "ممنون. دربارهٔ «خوانده‌نشده‌ها» هم حرف بزنیم؟"),
    ("سارا", "حتماً. حالا در مرورگر و پایانه یکی است."),
]
_CODE = [
    ("نیما", "کسی می‌داند چرا `sorted` با «ی» و «ي» ترتیب دیگری می‌دهد؟"),
    ("سحر", "دو نویسهٔ جدا هستند. اول یکسان‌شان کن:\n```py\nname = name.replace('ي', 'ی').replace('ك', 'ک')\n```"),
    ("نیما", "درست شد، سپاس!"),
    ("سحر", "خودِ پیک هم در نام کانال‌ها همین کار را می‌کند."),
]
_EVENTS = [
    ("ci", "build.passed", {"branch": "main", "seconds": 212, "tests": 1403}),
    ("ci", "deploy.started", {"service": "shop", "version": "2.14.0", "to": "production"}),
    ("ci", "deploy.finished", {"service": "shop", "version": "2.14.0", "seconds": 38}),
    ("monitor", "latency.back_to_normal", {"p50_ms": 0.7, "p99_ms": 1.6}),
]


@dataclass(frozen=True)
class Line:
    """One message to be said."""

    channel: str
    user: str
    data: bytes


def script() -> list[Line]:
    """Everything that is said, in an order in which the channels take turns."""
    talks = {"general": _GENERAL, "عمومی": _PERSIAN, "برنامه‌نویسی": _CODE}
    lines = {name: [Line(name, user, encode({"text": text})) for user, text in talk] for name, talk in talks.items()}
    lines["deploys"] = [
        Line("deploys", user, encode({"id": f"{kind}-{n}", "type": kind, "payload": payload}))
        for n, (user, kind, payload) in enumerate(_EVENTS)
    ]
    turns = []
    while any(lines.values()):
        turns += [talk.pop(0) for talk in lines.values() if talk]
    return turns


_ELSEWHERE = "give the demo data of its own: DATA_DIR=data/demo, and REDIS_DB=<an empty one> where REDIS_… is set"


async def take(settings: ServerSettings, outside: Sequence[str], leftover: str) -> None:
    """Make sure that everything the demo will write is its own, and mark the Redis as such.

    `outside` names the settings of other systems that are given, `leftover` an archive that is there already. Raises
    ConfigError.
    """
    if outside:
        raise ConfigError(f"the demo writes into nobody's databases or queues; start it without {', '.join(outside)}")
    server = await find(settings)
    try:
        connection = await opened(server.address, settings)
        try:
            if await connection.call("EXISTS", DEMO):
                return
            if await connection.call("DBSIZE"):
                raise ConfigError(f"the {server.describe()} holds data that is not the demo's; {_ELSEWHERE}")
            if leftover:
                raise ConfigError(f"{leftover} is not of this demo; {_ELSEWHERE}")
            await connection.call("SET", DEMO, "1")
        finally:
            connection.abort()
    finally:
        await server.close()


async def seed(node: Node) -> None:
    """Say everything once. Where a demo was before nothing is done."""
    known = {channel.id for channel in await node.channels.all()}
    for line in script() if not known else ():
        if channel_id(line.channel) not in known:
            await node.channels.create(line.channel, _TOPICS[line.channel])
            known.add(channel_id(line.channel))
        await say(node, line)


async def say(node: Node, line: Line, writing: float = 0.0) -> None:
    """Say it; its writer is shown to write for so many seconds."""
    channel, user = channel_id(line.channel), User.named(line.user)
    if writing:
        await node.typing.tell(user, channel)
        await asyncio.sleep(writing)
    data = json_line(line.data, node.settings.message_limit)
    await node.producer.publish(channel, data, user=user.username)


async def attend(node: Node) -> None:
    """Those who talk are there, and belong to where they talk."""
    for channel, name in sorted({(channel_id(line.channel), line.user) for line in script()}):
        await node.subscriptions.add(User.named(name), channel)
        node.presence.add(channel, f"demo-{name}", name)


async def talk(node: Node) -> None:
    """Say everything again and again, now and then a line."""
    pause = 1.0
    for line in cycle(script()):
        await asyncio.sleep(pause)
        pause = random.uniform(*PACE)
        with contextlib.suppress(PeykError, *FAILURES):  # the next one then
            await say(node, line, 0 if line.channel == "deploys" else _WRITING)


@asynccontextmanager
async def company(node: Node) -> AsyncIterator[None]:
    """While the server runs, somebody is there."""
    await seed(node)
    await attend(node)
    task = asyncio.create_task(talk(node))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
