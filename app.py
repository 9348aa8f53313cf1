"""Peyk: the command line, and the five functions of its specification.

    python app.py                      chat in this terminal
    python app.py serve                the server: page, WebSocket, HTTP, fan-out, archive
    python app.py demo                 the server with some channels and people who talk
    python app.py pipeline             the workers alone: fan-out, archive
    python app.py send CHANNEL         publish a text, or the lines of standard input
    python app.py replay CHANNEL       history on standard output, one JSON line a message
    python app.py consume CHANNEL      what is kept of a channel into a file, and what comes
    python app.py bridge               RabbitMQ into the streams, alone
    python app.py status               partitions, groups, lag, sinks, queues, dead letters
    python app.py reconcile            compare streams and archives, refill what is missing
    python app.py dead list GROUP      what a group, or rabbitmq, could not handle; retry, drop
    python app.py token USER           a token for a user; revoke shuts one out
    python app.py rpc ACTION [JSON]    call another service over Redis Pub/Sub
    python app.py groups drop GROUP    end a group that nobody plays any more

The functions are coroutines, and share one connection:

    >>> import asyncio
    >>> asyncio.run(publish_message("general", "hello"))
    'Message published to channel general'

Where a message goes: chat/websocket.py → chat/session.py → pipeline/producer.py → pipeline/publish.lua
→ pipeline/fanout.py → chat/hub.py.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

if lacking := [name for name in ("pydantic_settings", "redis", "starlette", "msgspec") if find_spec(name) is None]:
    sys.exit(f"peyk: {sys.executable} lacks {', '.join(lacking)}; say `make run`, then `.venv/bin/python app.py`")

from pydantic import ValidationError

from bridge.archives import make_directory, off, open_archives
from bridge.cache import EventCache, FillingSink
from bridge.delivery import Limits
from bridge.envelope import DEFAULT_ACTION
from bridge.publisher import Publisher, RabbitGateway
from bridge.queues import Queues
from bridge.rabbitmq import RabbitMQ
from bridge.rpc import CONFIGS, Rpc
from bridge.said import Said
from bridge.settings import BridgeSettings, database
from bridge.sql import SqlArchive
from bridge.topology import read
from chat import commands, models
from chat.arguments import add_terminal
from chat.auth import CAPS, Identity
from chat.calls import ask
from chat.direct import Direct
from chat.doors import tokens_of
from chat.errors import BadRequest, PeykError, Temporary
from chat.lines import Lines
from chat.models import User
from chat.node import WORKERS, Node
from chat.opening import Look, chat
from chat.pipe import replay, send
from chat.protocol import encode
from chat.settings import ServerSettings, log
from chat.shared import SharedNode
from chat.stdio import NO_ROOM, forget_output, tolerate
from chat.terminal import Terminal
from chat.version import SERVER
from chat.words import Words
from pipeline.archive import KnownDatabase
from pipeline.consumer import Away, create_groups
from pipeline.content import json_line
from pipeline.files import UMASK
from pipeline.ports import Parts
from pipeline.producer import Position
from pipeline.reconcile import REPORT, Reconciler
from pipeline.resp import ConnectionLost, ReplyError
from redis_config import ConfigError, check_names

if TYPE_CHECKING:
    from starlette.applications import Starlette

USER = "app"  # who the five functions speak as


class AppSettings(ServerSettings, BridgeSettings):
    """Everything that may be set."""


@asynccontextmanager
async def join(node: Node) -> AsyncIterator[Parts]:
    """Open the outside systems a node of this kind plays a part in."""
    settings = node.settings
    assert isinstance(settings, AppSettings)
    parts = Parts(off=off(settings))
    async with AsyncExitStack() as stack:
        await _join_archives(node, settings, parts, stack)
        await _join_services(node, settings, parts, stack)
        await _join_rabbitmq(node, settings, parts, stack)
        yield parts


async def _join_archives(node: Node, settings: AppSettings, parts: Parts, stack: AsyncExitStack) -> None:
    """The databases, and the cache before them. An archive that is new begins with what the streams hold."""
    opening = open_archives(settings, node.link, node.keys, node.kind in WORKERS)
    archives = await stack.enter_async_context(opening)
    if not archives.stores:
        return
    await create_groups(node.link, node.keys, [sink.group for sink in archives.sinks])
    channels = [channel.id for channel in await node.channels.all()] if archives.fresh else []
    filling = asyncio.create_task(Reconciler(node.link, node.keys, archives.fresh).fill(channels))
    stack.push_async_callback(asyncio.wait, [filling])
    stack.callback(filling.cancel)
    events = EventCache(archives, node.redis_server.address, settings)
    cache = await stack.enter_async_context(events)
    parts.archive, parts.events = archives, cache
    parts.sinks = [FillingSink(sink, cache) for sink in archives.sinks]
    parts.measures.append(cache.measures)


async def _join_services(node: Node, settings: AppSettings, parts: Parts, stack: AsyncExitStack) -> None:
    """Calls to and from other services. Who only looks, or works in the back, answers nobody."""
    if not settings.rpc_channel:
        parts.off["rpc"] = "RPC_CHANNEL"
    if not settings.rpc_channel or node.kind != "serve":
        return
    fallbacks = {CONFIGS: configs(settings), DEFAULT_ACTION: {"subscribed": True, "version": SERVER}}
    said = None
    if settings.rpc_events:
        said = Said(settings.rpc_events, node.producer, settings.message_limit, settings.json_depth)
    rpc = Rpc(node.redis_server.address, settings, fallbacks, said)
    parts.caller = await stack.enter_async_context(rpc)
    parts.moved.append(rpc.reopen)
    parts.measures.append(rpc.measures)


async def _join_rabbitmq(node: Node, settings: AppSettings, parts: Parts, stack: AsyncExitStack) -> None:
    """RabbitMQ, where AMQP_URL names one. Servers and bridges consume; a command only looks."""
    url = settings.amqp_url.get_secret_value()
    if not url:
        parts.off["rabbitmq"] = "AMQP_URL"
        return
    topology = read(settings.bridge_file)
    parts.queues = Queues(url, topology, settings.amqp_management_url)
    if node.kind not in ("serve", "bridge"):
        return
    sizes = (settings.message_limit, settings.json_depth, settings.channel_name_length)
    limits = Limits(*sizes, settings.batch_bytes, settings.event_batch)
    publisher = Publisher(url, topology)
    consumers = RabbitMQ(url, topology, node.producer.append, publisher, limits)
    if topology.gateway is not None:  # else events that are posted go straight to the streams
        parts.gateway = RabbitGateway(publisher, topology.gateway)
    parts.states |= {"rabbitmq": lambda: consumers.state, "gateway": lambda: publisher.state}
    parts.measures.append(consumers.measures)
    await stack.enter_async_context(publisher)
    await stack.enter_async_context(consumers)


def configs(settings: AppSettings) -> dict[str, object]:
    """What other services are told of this one when they call `configs`: nothing secret."""
    names = ("channel_prefix", "message_prefix", "create_channels", "message_limit", "page_limit")
    return {"version": SERVER, **{name: getattr(settings, name) for name in names}}


def worker() -> "Starlette":
    """The application of one server process of several. What the first process was told is in the environment."""
    from chat.server import application

    log(logging.INFO)
    return application(AppSettings(), join)


_shared = SharedNode(AppSettings)
open_node = _shared.open
close_node = _shared.close


def _id(channel_id: object) -> str:
    if not isinstance(channel_id, str):
        raise BadRequest(f"a channel is called by its name, a text, not by {channel_id!r}")
    return models.channel_id(channel_id)


async def produce_message(channel_id: str, message: str) -> str:
    """Append `message` to the channel's stream (XADD). Returns its entry id in a success message. Raises BadRequest."""
    position = await _append(channel_id, message)
    return f"Message produced to channel {_id(channel_id)}: {position.id}"


async def _append(channel_id: str, message: object, store: bool = True) -> Position:
    channel = _id(channel_id)
    if not isinstance(message, str):
        raise BadRequest(f"a message is a text, not {type(message).__name__}; JSON goes by `send --json` or HTTP")
    node = await open_node()
    try:
        data = json_line(encode({"text": message}), node.settings.message_limit)
    except UnicodeEncodeError as error:
        raise BadRequest(f"a message is a text of whole characters: {error}") from None
    return await node.producer.publish(channel, data, user=USER, store=store)


async def publish_message(channel_id: str, message: str) -> str:
    """Send `message` to everybody in the channel: produced to the stream, shown by the fan-out, kept in history.

    Raises BadRequest for what is no text.
    """
    await produce_message(channel_id, message)
    return f"Message published to channel {_id(channel_id)}"


async def subscribe_to_channel(channel_id: str, on_message: Callable[[str], None] = print) -> str:
    """Join the channel; from now on each message is passed to `on_message` as a line `[10:00] user: text`."""
    channel = _id(channel_id)
    node = await open_node()
    user = User.named(USER)
    face = Lines(on_message, Words())
    face.terminal = Terminal(Direct(node, user, Identity(user, program=True)), face, Words())
    await face.terminal.join(channel_id)
    return f"Subscribed to channel {channel}"


async def consume_message(channel_id: str) -> str:
    """Read what the stream holds beyond what is stored, and store each message in the Stream model (SQL)."""
    channel, count = _id(channel_id), 0
    node = await open_node()
    settings = node.settings
    assert isinstance(settings, AppSettings)
    known = KnownDatabase(node.link, node.keys, SqlArchive.group)
    make_directory(settings)
    async with SqlArchive(database(settings.database_url, settings.data_dir), known) as archive:
        page = await node.replay.after(channel, 0, 0, 0)
        offset = await archive.last_offset(channel, page.epoch)
        while (chunk := await node.replay.chunk(channel, offset)) and chunk.messages:
            first, offset = chunk.messages[0].offset, chunk.messages[-1].offset
            there = await archive.ids(channel, first, offset)  # of older epochs, too
            new = [message for message in chunk.messages if message.id not in there]
            await archive.store(new)
            count += len(new)
    return f"Consumed {count} messages from channel {channel}"


async def reconcile(settings: AppSettings) -> None:
    """Compare streams and archives, and refill what one has and another lacks. Writes a table."""
    async with Node(settings, "tool") as node, open_archives(settings, node.link, node.keys, fills=True) as archives:
        if not archives.stores:
            raise ConfigError("nothing is archived; ARCHIVE=1 or MONGO_URL turns it on")
        channels = [channel.id for channel in await node.channels.all()]
        commands.print_table([REPORT, *await Reconciler(node.link, node.keys, archives.sinks).run(channels)])


async def broadcast_message(channel_id: str, message: str) -> str:
    """Show `message` to all who are subscribed now; it takes no place in the history."""
    await _append(channel_id, message, store=False)
    return f"Message broadcast to channel {_id(channel_id)}"


async def call(settings: AppSettings, action: str, data: str, send: bool) -> None:
    """Call another service and print its answer, or only tell it something. Raises PeykError."""
    line = json_line(data.encode(), settings.message_limit, settings.json_depth)
    async with Node(settings, "tool") as node, Rpc(node.redis_server.address, settings) as rpc:
        answer = await ask(rpc, action, line, send)
        if not send:
            print(encode(answer).decode())


def demo(settings: AppSettings) -> None:
    """Run the server with people who talk, where nothing is that is not the demo's. Raises ConfigError."""
    from chat.demo import company, take
    from chat.server import serve

    outside = [name.upper() for name in ("database_url", "mongo_url") if getattr(settings, name)]
    outside += ["AMQP_URL"] if settings.amqp_url.get_secret_value() else []
    archive = settings.data_dir / "peyk.sqlite"
    asyncio.run(take(settings, outside, str(archive) if archive.exists() else ""))
    serve(settings, join, "app:worker", company)


def parser() -> argparse.ArgumentParser:
    """What can be said on the command line."""
    top = argparse.ArgumentParser(prog="python app.py", description="Peyk: realtime chat on Redis Streams.")
    sub = top.add_subparsers(dest="command", metavar="COMMAND")
    add_terminal(top, sub)
    serve = sub.add_parser("serve", help="run the server")
    serve.add_argument("--host", help="address to listen on (HTTP_HOST)")
    serve.add_argument("--port", type=int, help="port to listen on (HTTP_PORT)")
    serve.add_argument("--workers", type=int, help="server processes that share the port (HTTP_WORKERS)")
    sub.add_parser("pipeline", help="run the workers alone: fan-out and archive")
    demo = sub.add_parser("demo", help="run the server with some channels and people who talk, to look at")
    demo.add_argument("--port", type=int, help="port to listen on (HTTP_PORT)")
    sub.add_parser("bridge", help="bring events from RabbitMQ into the streams, and do nothing else")
    sub.add_parser("status", help="partitions, groups, lag, pending, sinks, queues, dead letters, last positions")
    sub.add_parser("reconcile", help="compare streams and archives, and refill what one has and another lacks")
    dead = sub.add_parser("dead", help="messages a consumer group could not handle")
    dead.add_argument("action", choices=("list", "retry", "drop"), help="show them, give them back, or forget them")
    dead.add_argument("group", help="the consumer group, for example fanout, or rabbitmq")
    dead.add_argument("id", nargs="*", help="the letters meant, by the id that list shows")
    dead.add_argument("--all", action="store_true", help="all letters of the group")
    token = sub.add_parser("token", help="make a token for a user, signed with AUTH_SECRET")
    token.add_argument("name", metavar="USER")
    token.add_argument("--ttl", type=int, default=86400, help="seconds it lasts, 0: for ever (default: %(default)s)")
    token.add_argument("--channels", default="", help="patterns of the channels it is for, separated by commas")
    token.add_argument("--caps", default="", help=f"what it allows, of {', '.join(CAPS)}; separated by commas")
    revoke = sub.add_parser("revoke", help="shut out a user's tokens issued until now, or one token")
    revoke.add_argument("name", metavar="USER", nargs="?", default="")
    revoke.add_argument("--token", default="", metavar="ID", help="the token's id (jti) instead of a user")
    password = sub.add_parser("password", help="give an account a new password, print it, and end its sessions")
    password.add_argument("name", metavar="USER")
    groups = sub.add_parser("groups", help="end a consumer group that nobody plays any more")
    groups.add_argument("action", choices=("drop",))
    groups.add_argument("group")
    rpc = sub.add_parser("rpc", help="call another service over Redis Pub/Sub and print its answer")
    rpc.add_argument("action", help="what it shall do, for example configs")
    rpc.add_argument("data", metavar="JSON", nargs="?", default="null", help="with what (default: %(default)s)")
    rpc.add_argument("--send", action="store_true", help="wait for no answer")
    return top


def run(options: argparse.Namespace) -> int:
    """Do what was asked; the exit code. Imports uvicorn only to serve: the terminal starts faster without it."""
    given = {f"http_{name}": getattr(options, name, None) for name in ("host", "port", "workers")}
    given["peyk_url"] = options.url
    for line in check_names(AppSettings, AppSettings.model_config.get("env_file")):
        print(f"peyk: {line}", file=sys.stderr)
    settings = AppSettings(**{name: value for name, value in given.items() if value is not None})
    if options.command == "serve":
        from chat.server import serve

        serve(settings, join, "app:worker")
    elif options.command == "demo":
        demo(settings)
    elif options.command == "pipeline":
        commands.work(settings, join, "pipeline")
    elif options.command == "replay":
        asyncio.run(replay(settings, join, options.user, options.channel, options.after, options.since, options.follow))
    elif options.command == "consume":
        from chat.consume import consume  # locks files, which not every platform does alike

        asyncio.run(consume(settings, join, options.user, options.channel, options.file))
    elif options.command == "send":
        text = " ".join(options.text)
        asyncio.run(send(settings, options.user, options.channel, text, options.whole, options.json))
    elif options.command == "status":
        asyncio.run(commands.status(settings, join))
    elif options.command == "reconcile":
        asyncio.run(reconcile(settings))
    elif options.command == "bridge":
        commands.work(settings, join, "bridge")
    elif options.command == "dead":
        asyncio.run(commands.dead(settings, join, options.action, options.group, options.id, options.all))
    elif options.command == "token":
        channels, caps = [filter(None, text.split(",")) for text in (options.channels, options.caps)]
        print(tokens_of(settings).issue(options.name, options.ttl, list(channels), list(caps)))
    elif options.command == "revoke":
        asyncio.run(commands.revoke(settings, options.name, options.token))
    elif options.command == "password":
        asyncio.run(commands.reset_password(settings, options.name))
    elif options.command == "rpc":
        asyncio.run(call(settings, options.action, options.data, options.send))
    elif options.command == "groups":
        asyncio.run(commands.drop_group(settings, options.group))
    else:
        look = Look(options.channel, options.lang, options.theme, options.plain)
        return asyncio.run(chat(settings, join, options.user, look))
    return 0


NOT_NOW = 75  # EX_TEMPFAIL of sysexits.h: the same may succeed later


def main() -> int:
    """The process's exit code: 0; 1 for an error that was explained; 2 for a command that is none; 75 for what may
    succeed later; 130 for Ctrl-C."""
    os.umask(UMASK)
    options, rest = parser().parse_known_args()
    if options.command == "send" and not any(word.startswith("-") for word in rest):
        options.text += rest  # argparse takes no text behind an option that stands behind the channel
    elif rest:
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    tolerate()
    log(logging.INFO if options.command in (*WORKERS, "bridge", "demo") else logging.ERROR)
    try:
        code = run(options)
        sys.stdout.flush()  # while there is somebody to tell what became of it
        return code
    except (Temporary, ConnectionLost, ReplyError) as error:
        print(f"peyk: {error}", file=sys.stderr)
        return NOT_NOW
    except (ConfigError, PeykError, Away) as error:
        print(f"peyk: {error}", file=sys.stderr)
        return 1
    except ValidationError as error:
        for problem in error.errors():
            name = ".".join(map(str, problem["loc"])).upper()
            print(f"peyk: setting {name}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has enough
        forget_output()
        return 0
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        forget_output()
        print(f"peyk: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
