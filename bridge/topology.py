"""bridge.toml: which exchanges and queues there are in RabbitMQ, and where what comes in goes. Pure.

What a field may hold is said once, in its description here: errors and the table in docs/rabbitmq.md repeat it.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Meta

from chat.errors import BadRequest
from chat.models import channel_id
from redis_config import ConfigError

DEFAULT_FILE = Path(__file__).parent.parent / "bridge.toml"
NAME_BYTES = 255  # of an exchange, a queue or a routing key: AMQP's short string
PREDECLARED = {"amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic", "amq.headers": "headers"}

Name = Annotated[str, Meta(min_length=1, max_length=NAME_BYTES, description="a name of 1 to 255 bytes")]
_Bool = Annotated[bool, Meta(description="true or false")]


class Exchange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Name
    type: Annotated[
        Literal["direct", "fanout", "topic", "headers"], Meta(description="direct, fanout, topic or headers")
    ]
    durable: Annotated[bool, Meta(description="true or false: whether it is there after a restart")] = True
    passive: Annotated[bool, Meta(description="true or false: it is somebody else's, and only has to be there")] = False


class Bind(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    exchange: Annotated[str, Meta(description="the name of an [[exchange]] of this file, or of one of amq.*")]
    key: Annotated[
        str, Meta(max_length=NAME_BYTES, description="a routing key, with * and # for a topic; none for headers")
    ] = ""
    headers: Annotated[dict[str, str | int | bool], Meta(description="a table of header values")] = {}
    match: Annotated[Literal["all", "any"], Meta(description="all or any: how many of the headers must match")] = "all"


class Queue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Name
    kind: Annotated[
        Literal["quorum", "classic"] | None,
        Meta(description="quorum (the default: durable, replicated) or classic (the default of passing queues)"),
    ] = None
    passive: Annotated[bool, Meta(description="true or false: it is somebody else's, and only has to be there")] = False
    exclusive: Annotated[bool, Meta(description="true or false: it is one node's, and goes with its connection")] = (
        False
    )
    auto_delete: Annotated[bool, Meta(description="true or false: it goes with its last consumer")] = False
    ordered: Annotated[
        bool, Meta(description="true: one node at a time consumes, in order; false: a work queue all nodes share")
    ] = True
    prefetch: Annotated[int, Meta(ge=1, le=65535, description="1 to 65535 messages in hand, not yet acked")] = 500
    delivery_limit: Annotated[
        int,
        Meta(ge=1, le=1000, description="1 to 1000 deliveries without an ack, then the log names it (quorum queues)"),
    ] = 20
    channel: Annotated[str, Meta(description="a channel's name, or a template: where the events go")] = ""
    event_type: Annotated[str, Meta(description="a type, or a template: for bodies that are not events")] = ""
    body: Annotated[
        Literal["auto", "json", "text"],
        Meta(description="auto (text where the content type is text/plain, else JSON), json or text"),
    ] = "auto"
    store: Annotated[bool, Meta(description="true or false: whether events are kept, or shown only")] = True
    arguments: Annotated[dict[str, str | int | bool], Meta(description="a table of x-arguments for the broker")] = {}
    bind: list[Bind] = []

    @property
    def passing(self) -> bool:
        """Whether it goes when nobody consumes."""
        return self.exclusive or self.auto_delete

    @property
    def is_quorum(self) -> bool:
        return (self.kind or ("classic" if self.passing else "quorum")) == "quorum"


class Gateway(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What POST /api/events publishes to."""

    exchange: Annotated[str, Meta(description="the name of an [[exchange]] of this file, or of one of amq.*")]
    key: Annotated[str, Meta(description="a routing key, with {type}, {channel} and {user} in it")] = "{type}"


class DeadLetters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where what cannot be accepted goes: a fanout exchange and a quorum queue behind it."""

    exchange: Name = "peyk.dead"
    queue: Name = "peyk.dead"
    passive: Annotated[bool, Meta(description="true or false: both are somebody else's, and only have to be there")] = (
        False
    )


class Topology(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole file."""

    gateway: Gateway | None = None
    dead_letters: DeadLetters = DeadLetters()
    exchange: list[Exchange] = []
    queue: list[Queue] = []


BUILT_IN = Topology(
    gateway=Gateway(exchange="peyk.events"),
    exchange=[Exchange(name="peyk.events", type="topic")],
    queue=[Queue(name="peyk.events", bind=[Bind(exchange="peyk.events", key="#")])],
)
"""Where there is no file: what POST /api/events takes comes into the streams, in order."""

PLACES = {
    "body": "{body.FIELD}: a field of the body, {body.FIELD.FIELD}: one inside another",
    "header": "{header.NAME}: a header",
    "word": "{word.N}: the N-th word of the routing key, from 1",
    "routing_key": "{routing_key}: all of it",
    "exchange": "{exchange}: the exchange it came through",
    "queue": "{queue}: the queue's name",
}
"""What a template may hold."""
GATEWAY_PLACES = "type", "channel", "user"
_PLACE = re.compile(r"\{([^{}]*)\}")
_INTEGERS = range(-(2**63), 2**63)  # what AMQP's tables hold


def parse(text: str, file: str = "bridge.toml") -> Topology:
    """Read a file's text. Raises ConfigError naming the line and what is allowed there."""
    lines = Lines(text)
    try:
        topology = msgspec.convert(tomllib.loads(text), Topology)
    except tomllib.TOMLDecodeError as error:
        what, _, at = str(error).rpartition(" (at ")
        number = re.search(r"line (\d+)", at)
        line = number[1] if number else text.rstrip().count("\n") + 1  # at the end of the document
        raise ConfigError(f"{file} line {line}: {what}; see https://toml.io") from None
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at ")
        where = re.findall(r"\w+", path.strip("`$"))
        raise ConfigError(f"{file} {lines.place(where, what)}: {what}; {_allowed(where, what)}") from None
    for where, what in _contradictions(topology):
        raise ConfigError(f"{file} {lines.place(where)}: {what}")
    return topology


def read(file: Path | None) -> Topology:
    """What `file` says; without one bridge.toml beside app.py, without that the built-in. Raises ConfigError."""
    if file is None and not DEFAULT_FILE.exists():
        return BUILT_IN
    path = file or DEFAULT_FILE
    try:
        return parse(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"BRIDGE_FILE {path}: {error}") from None


class Lines:
    """Finds the line of a path like ["queue", "1", "prefetch"]: tomllib does not say where a value stood."""

    def __init__(self, text: str) -> None:
        self._found: dict[tuple[str, ...], int] = {}
        table: tuple[str, ...] = ()
        counts: dict[tuple[str, ...], int] = {}
        for number, line in enumerate(text.split("\n"), 1):
            if header := re.match(r"\s*(\[\[?)\s*([\w.\s]+?)\s*\]", line):
                names = header[2].replace(" ", "").split(".")
                table = self._table(names, counts, header[1] == "[[")
                self._found.setdefault(table, number)
            elif key := re.match(r"""\s*["']?([\w-]+)["']?\s*[=.]""", line):
                self._found.setdefault((*table, key[1]), number)

    @staticmethod
    def _table(names: list[str], counts: dict[tuple[str, ...], int], is_list: bool) -> tuple[str, ...]:
        """The path of a header: list elements have a number behind their name."""
        path: tuple[str, ...] = ()
        for i, name in enumerate(names):
            path = (*path, name)
            last = i == len(names) - 1
            if last and is_list:
                counts[path] = counts.get(path, -1) + 1
            if path in counts:
                path = (*path, str(counts[path]))
        return path

    def place(self, where: list[str], what: str = "") -> str:
        """ "line N", with the field's name if the path ends in one; the nearest line that is known."""
        named = re.search(r"unknown field `(.+)`", what)
        path = (*where, named[1]) if named else tuple(where)
        name = path[-1] if path and not path[-1].isdigit() else ""
        while path and path not in self._found:
            path = path[:-1]
        return f"line {self._found.get(path, 1)}" + (f", {name}" if name else "")


def _fields(kind: Any) -> Mapping[str, str]:
    """What each field of a table may hold."""
    hints = get_type_hints(kind, include_extras=True)
    texts = {}
    for name in kind.__struct_fields__:
        extra = next((m for m in get_args(hints[name]) if isinstance(m, Meta)), None)
        texts[name] = (extra and extra.description) or "a table"
    return texts


TABLES: Mapping[str, tuple[Any, Mapping[str, str]]] = {
    name: (kind, _fields(kind))
    for name, kind in {
        "": Topology,
        "gateway": Gateway,
        "dead_letters": DeadLetters,
        "exchange": Exchange,
        "queue": Queue,
        "bind": Bind,
    }.items()
}
"""The tables of the file by name, and what each of their fields may hold."""


def _allowed(where: list[str], what: str) -> str:
    """What may stand at a path."""
    required = re.search(r"required field `(.+)`", what)
    table = field = ""
    for name in [*where, required[1] if required else ""]:
        if name in TABLES and name and (not table or name == "bind"):
            table = name
        elif name in TABLES[table][1]:
            field = name
    fields = TABLES[table][1]
    if field:
        return f"{field} is {fields[field]}"
    return f"{'[' + table + ']' if table else 'the file'} has {', '.join(fields)}"


Trouble = tuple[list[str], str]


def _contradictions(topology: Topology) -> Iterator[Trouble]:
    """What is well formed and cannot be meant: the path, and what is wrong there."""
    kinds = PREDECLARED | {exchange.name: exchange.type for exchange in topology.exchange}
    yield from _twice("exchange", [exchange.name for exchange in topology.exchange])
    yield from _twice("queue", [topology.dead_letters.queue, *[queue.name for queue in topology.queue]], 1)
    yield from _long(topology)
    for i, exchange in enumerate(topology.exchange):
        if exchange.name.startswith("amq.") and not exchange.passive:
            yield (
                ["exchange", str(i), "name"],
                "names with amq. are the broker's own; bind to them without declaring them",
            )
        if exchange.name == topology.dead_letters.exchange:
            yield ["exchange", str(i), "name"], "this is the exchange of [dead_letters]; give one of them another name"
    for i, queue in enumerate(topology.queue):
        yield from _queue(queue, ["queue", str(i)])
        for j, bind in enumerate(queue.bind):
            yield from _bind(bind, kinds, ["queue", str(i), "bind", str(j)])
    if topology.gateway is not None:
        if topology.gateway.exchange not in kinds:
            yield ["gateway", "exchange"], _no_exchange(topology.gateway.exchange, kinds)
        places = "{type}, {channel} and {user}"
        yield from _template(topology.gateway.key, GATEWAY_PLACES.__contains__, places, ["gateway", "key"])


def _twice(table: str, names: list[str], before: int = 0) -> Iterator[Trouble]:
    """`before` of the names are not in the table itself."""
    for i, name in enumerate(names):
        if name in names[:i]:
            yield (
                [table, str(i - before), "name"],
                f"the {table} {name!r} is there twice; give one of them another name",
            )


def _long(topology: Topology) -> Iterator[Trouble]:
    """Names are counted in bytes, which msgspec does not do."""
    dead = topology.dead_letters
    names = [(["dead_letters", "exchange"], dead.exchange), (["dead_letters", "queue"], dead.queue)]
    names += [(["exchange", str(i), "name"], exchange.name) for i, exchange in enumerate(topology.exchange)]
    for i, queue in enumerate(topology.queue):
        names.append((["queue", str(i), "name"], queue.name))
        names += [(["queue", str(i), "bind", str(j), "key"], bind.key) for j, bind in enumerate(queue.bind)]
    for where, name in names:
        if len(name.encode()) > NAME_BYTES:
            yield where, f"at most {NAME_BYTES} bytes; this has {len(name.encode())}"


def _queue(queue: Queue, where: list[str]) -> Iterator[Trouble]:
    if queue.is_quorum and queue.passing:
        field = "exclusive" if queue.exclusive else "auto_delete"
        yield [*where, field], f'a quorum queue is durable and cannot be {field}; say kind = "classic", or leave it out'
    if queue.passive:
        said = {"kind": queue.kind, "exclusive": queue.exclusive, "auto_delete": queue.auto_delete}
        for field in [name for name, value in (said | {"arguments": queue.arguments}).items() if value]:
            yield [*where, field], f"a passive queue is taken as it is: leave {field} out, or passive"
    for field, template in (("channel", queue.channel), ("event_type", queue.event_type)):
        yield from _template(template, _is_place, "; ".join(PLACES.values()), [*where, field])
    if queue.channel:
        try:
            channel_id(_PLACE.sub("x", queue.channel))  # whatever comes there
        except BadRequest as error:
            yield [*where, "channel"], str(error)
    yield from _integers(queue.arguments, [*where, "arguments"])


def _template(template: str, is_place: Callable[[str], bool], places: str, where: list[str]) -> Iterator[Trouble]:
    for place in _PLACE.findall(template):
        if not is_place(place):
            yield where, f"{{{place}}} is not known; there are {places}"
    if brace := re.search("[{}]", _PLACE.sub("", template)):
        yield where, f"a {brace[0]} stands alone; there are {places}"


def _integers(table: Mapping[str, str | int | bool], where: list[str]) -> Iterator[Trouble]:
    for name, value in table.items():
        if isinstance(value, int) and value not in _INTEGERS:
            yield [*where, name], f"an integer has at most 64 bits, with its sign; {value} has more"


def _is_place(place: str) -> bool:
    name, _, rest = place.partition(".")
    if name == "word":
        return rest.isascii() and rest.isdigit() and rest != "0"
    return name in PLACES and bool(rest) == (name in ("body", "header"))


def _bind(bind: Bind, kinds: Mapping[str, str], where: list[str]) -> Iterator[Trouble]:
    yield from _integers(bind.headers, [*where, "headers"])
    kind = kinds.get(bind.exchange)
    if kind is None:
        yield [*where, "exchange"], _no_exchange(bind.exchange, kinds)
    elif kind == "headers":
        if not bind.headers:
            yield where, f"{bind.exchange} is a headers exchange: give headers, a table of values to match"
        if bind.key:
            yield [*where, "key"], f"{bind.exchange} is a headers exchange and looks at headers, not at a key"
    elif bind.headers:
        yield [*where, "headers"], f"{bind.exchange} is a {kind} exchange and looks at the key; headers are for headers"


def _no_exchange(name: str, kinds: Mapping[str, str]) -> str:
    return f"there is no exchange {name!r}; there are {', '.join(sorted(kinds))}"
