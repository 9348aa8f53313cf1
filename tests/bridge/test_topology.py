"""bridge.toml: what it may say, and the line and the remedy when it says something else."""

import re
from pathlib import Path

import pytest

from bridge.topology import BUILT_IN, TABLES, Queue, parse, read
from redis_config import ConfigError
from tests.services import ROOT

EXAMPLE = ROOT / "bridge.example.toml"
SHOP = '[[exchange]]\nname = "shop"\ntype = "topic"\n'


def test_the_example_has_each_type_of_exchange() -> None:
    topology = read(EXAMPLE)
    assert {exchange.type for exchange in topology.exchange} == {"direct", "fanout", "topic", "headers"}
    assert {bind.match for queue in topology.queue for bind in queue.bind} == {"all", "any"}
    queues = {queue.name: queue for queue in topology.queue}
    assert not queues["orders.created"].ordered and queues["orders.created"].prefetch == 50
    assert queues["logs.all"].exclusive and queues["prices.live"].auto_delete and not queues["prices.live"].store


def test_without_a_file_there_is_a_queue_for_posted_events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bridge.topology.DEFAULT_FILE", tmp_path / "bridge.toml")
    assert read(None) is BUILT_IN
    (tmp_path / "bridge.toml").write_text(SHOP)
    assert read(None).exchange[0].name == "shop"


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"BRIDGE_FILE .*nowhere\.toml: .*No such file"):
        read(tmp_path / "nowhere.toml")


def test_queues_are_durable_quorum_queues_unless_they_pass() -> None:
    plain, passing, shared = parse(
        '[[queue]]\nname = "a"\n[[queue]]\nname = "b"\nexclusive = true\n[[queue]]\nname = "c"\nkind = "classic"'
    ).queue
    assert plain.is_quorum and not plain.passing and plain.delivery_limit == 20 and plain.ordered and plain.store
    assert passing.passing and not passing.is_quorum
    assert not shared.passing and not shared.is_quorum


ERRORS = [
    ("x = ", 1, "Invalid value"),
    ('[[exchange]]\nname = "a"\ntype = "topik"', 3, "type is direct, fanout, topic or headers"),
    ('[[exchange]]\nname = "a"', 1, "type is direct, fanout, topic or headers"),
    ('[[exchange]]\nname = ""\ntype = "topic"', 2, "a name of 1 to 255 bytes"),
    (f'[[exchange]]\nname = "{"ش" * 128}"\ntype = "topic"', 2, "at most 255 bytes; this has 256"),
    ('[[exchange]]\nname = "amq.topic"\ntype = "topic"', 2, "without declaring them"),
    ('[[exchange]]\nname = "peyk.dead"\ntype = "topic"', 2, r"the exchange of \[dead_letters\]"),
    (SHOP + SHOP, 5, "'shop' is there twice"),
    ("foo = 1", 1, "the file has gateway, dead_letters, exchange, queue"),
    ("queue = 3", 1, r"Expected `array`.*\[queue\] has name, kind"),
    ('[[queue]]\nname = "a"\n\n# a comment\n[[queue]]\nname = "b"\nprefech = 3', 7, "prefech.*has name, .*prefetch"),
    ('[[queue]]\nname = "a"\nprefetch = 0', 3, "1 to 65535 messages"),
    ('[[queue]]\nname = "a"\nprefetch = "many"', 3, "1 to 65535 messages"),
    ('[[queue]]\nname = "a"\ndelivery_limit = 0', 3, "1 to 1000 deliveries"),
    ('[[queue]]\nname = "a"\nkind = "lazy"', 3, "quorum .* or classic"),
    ('[[queue]]\nname = "a"\nstore = 1', 3, "store is true or false"),
    ('[[queue]]\nname = "a"\narguments = { "x-a" = [1] }', 3, "a table of x-arguments"),
    ("[[queue]]\nprefetch = 1", 1, "a name of 1 to 255 bytes"),
    ('[[queue]]\nname = "peyk.dead"', 2, "'peyk.dead' is there twice"),
    ('[[queue]]\nname = "a"\nkind = "quorum"\nexclusive = true', 4, 'say kind = "classic"'),
    ('[[queue]]\nname = "a"\nkind = "quorum"\nauto_delete = true', 4, 'say kind = "classic"'),
    ('[[queue]]\nname = "a"\nchannel = "{bdy.x}"', 3, r"\{bdy.x\} is not known; there are \{body.FIELD\}"),
    ('[[queue]]\nname = "a"\nchannel = "{body}"', 3, r"\{body\} is not known"),
    ('[[queue]]\nname = "a"\nevent_type = "{word.0}"', 3, r"\{word.0\} is not known"),
    (SHOP + '[[queue]]\nname = "a"\n[[queue.bind]]\nexchange = "shpo"', 7, "no exchange 'shpo'; there are .*shop"),
    (SHOP + '[[queue]]\nname = "a"\n[[queue.bind]]\nkey = "b"', 6, r"an \[\[exchange\]\] of this file"),
    (SHOP + '[[queue]]\nname = "a"\n[[queue.bind]]\nexchange = "shop"\nheaders = { a = 1 }', 8, "looks at the key"),
    ('[[queue]]\nname = "a"\n[[queue.bind]]\nexchange = "amq.headers"', 3, "give headers"),
    (
        '[[queue]]\nname = "a"\n[[queue.bind]]\nexchange = "amq.headers"\nkey = "k"\nheaders = { a = 1 }',
        5,
        "not at a key",
    ),
    (
        '[[queue]]\nname = "a"\n[[queue.bind]]\nexchange = "amq.headers"\nmatch = "most"\nheaders = { a = 1 }',
        5,
        "all or any",
    ),
    ('[[queue]]\nname = "a"\nbind = [{ exchange = "x" }]', 3, "no exchange 'x'"),
    ('[gateway]\nexchange = "e"', 2, "no exchange 'e'"),
    (SHOP + '[gateway]\nexchange = "shop"\nkey = "{typ}"', 6, r"\{typ\} is not known; there are \{type\}"),
    ("[dead_letters]\nexchange = 5", 2, "a name of 1 to 255 bytes"),
    (f'[dead_letters]\nexchange = "d"\nqueue = "{"ش" * 128}"', 3, "at most 255 bytes; this has 256"),
    ('[[queue]]\nname = "a"\nchannel = "bad name!"', 3, "channel: a channel name has 1 to 64 letters"),
    ('[[queue]]\nname = "a"\nchannel = "bad name-{body.x}"', 3, "channel: a channel name has 1 to 64 letters"),
    ('[[queue]]\nname = "a"\nchannel = "c-{body.x"', 3, r"channel: a \{ stands alone; there are \{body.FIELD\}"),
    ('[[queue]]\nname = "a"\nevent_type = "{queue}}"', 3, r"event_type: a \} stands alone"),
    (SHOP + '[gateway]\nexchange = "shop"\nkey = "{type"', 6, r"key: a \{ stands alone; there are \{type\}"),
    ('[[queue]]\nname = "a"\npassive = true\nkind = "classic"', 4, "taken as it is: leave kind out"),
    ('[[queue]]\nname = "a"\npassive = true\narguments = { x-a = 1 }', 4, "leave arguments out"),
    ('[[queue]]\nname = "a"\nbody = "xml"', 3, "json or text"),
    (f'[[queue]]\nname = "a"\narguments = {{ x-n = {2**63} }}', 3, "an integer has at most 64 bits"),
    (f'[[queue]]\nname = "a"\n[queue.arguments]\nx-n = {-(2**63) - 1}', 4, "x-n: an integer has at most 64 bits"),
    (
        f'[[queue]]\nname = "a"\n[[queue.bind]]\nexchange = "amq.headers"\nheaders = {{ a = {2**64} }}',
        5,
        "an integer has at most 64 bits",
    ),
]


@pytest.mark.parametrize(("text", "line", "remedy"), ERRORS)
def test_an_error_names_its_line_and_what_is_allowed(text: str, line: int, remedy: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text, "bridge.toml")
    assert re.search(rf"^bridge\.toml.* line {line}\b.*{remedy}", str(raised.value)), raised.value


def test_each_field_says_what_it_may_hold() -> None:
    for name, (_, fields) in TABLES.items():
        assert name == "" or all(text != "a table" or field == "bind" for field, text in fields.items()), (name, fields)


def test_the_documentation_has_every_field() -> None:
    text = (ROOT / "docs/rabbitmq.md").read_text()
    rows = dict(re.findall(r"^\| `\[\[?queue\]?\]` `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert rows == {name: text for name, text in TABLES["queue"][1].items() if name != "bind"}
    assert Queue.__struct_fields__[0] == "name"
