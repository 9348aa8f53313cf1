"""The socket and the session, over a real connection to a real server."""

import asyncio
import json
import os
import signal
import struct
from typing import Any

import httpx2 as httpx
import pytest
import redis
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from chat.rpc import LONG
from chat.version import SERVER
from tests.chat.conftest import Dial, Talk
from tests.services import PeykServer, RedisProcess, until

PING = {"id": 1, "connect": {}}
PASSES = (1, "subscribe"), (1, "unsubscribe"), (2, "subscribe"), (2, "unsubscribe"), (2, "subscribe")


async def subscribe(talk: Talk, channel: str, **more: Any) -> dict[str, Any]:
    reply: dict[str, Any] = (await talk.ask(subscribe={"channel": channel, **more}))["subscribe"]
    return reply


async def publish(talk: Talk, channel: str, *texts: object) -> None:
    for text in texts:
        assert await talk.ask(publish={"channel": channel, "data": {"text": text}}) == {"publish": {}}


def direct(process: RedisProcess) -> "redis.Redis":
    return redis.Redis(port=process.port, decode_responses=True)


# -- the protocol


async def test_connect_tells_client_version_and_ping(dial: Dial) -> None:
    async with dial("") as talk:
        reply = (await talk.ask(connect={"data": {"user": "Sara", "guest": True}}))["connect"]
        assert len(reply["client"]) == 32 and reply["version"] == SERVER
        assert (reply["ping"], reply["pong"], reply["data"]) == (25, True, {"user": "Sara", "guest": True})
        assert await talk.fail(connect={}) == (107, "connected already")


async def test_a_message_reaches_every_subscriber_once_with_its_sender(dial: Dial) -> None:
    async with dial("sara") as sara, dial("بابک") as babak:
        for talk in (sara, babak):
            reply = await subscribe(talk, "ws-one")
            assert reply["recoverable"] and reply["positioned"] and reply["offset"] == 0 and reply["epoch"]
            assert "recovered" not in reply and reply["publications"] == []
        await publish(sara, "ws-one", "hello")
        await publish(babak, "ws-one", "سلام")
        for talk in (sara, babak):
            assert await talk.texts(2) == [(1, {"text": "hello"}), (2, {"text": "سلام"})]
        pub = babak.pushes[0]["pub"]
        assert pub["info"]["user"] == "sara" and pub["time"] > 1_600_000_000_000
        assert babak.pushes[1]["pub"]["info"]["user"] == "بابک"


async def test_several_commands_in_one_frame(dial: Dial) -> None:
    async with dial("") as talk:
        lines = [PING, {"id": 2, "subscribe": {"channel": "ws-many"}}]
        lines += [{"id": i, "publish": {"channel": "ws-many", "data": i}} for i in range(3, 20)]
        await talk.socket.send("\n".join(map(json.dumps, lines)) + "\n")
        for number in range(1, 20):
            assert "error" not in await talk.reply(number)
        history = (await talk.ask(history={"channel": "ws-many", "limit": 100}))["history"]
        assert [p["data"] for p in history["publications"]] == list(range(3, 20))


async def test_very_many_frames_at_once_are_answered_in_their_order(dial: Dial) -> None:
    """More than are taken in a turn, and more than are read at once."""
    async with dial() as talk:
        frame = struct.pack(">BB4x", 0x81, 0x80 | 22)  # a text of 22 bytes, masked with zeros
        numbers = range(10_000, 40_000)
        talk.socket.transport.write(b"".join(frame + b'{"id":%d,"ping":{}}' % number for number in numbers))
        answers: list[int] = []
        while len(answers) < len(numbers):
            text = await asyncio.wait_for(talk.socket.recv(), 180)
            answers += [json.loads(line)["id"] for line in str(text).split("\n")]
        assert answers == list(numbers)


async def test_history_forward_backward_and_position_only(dial: Dial) -> None:
    async with dial() as talk:
        await publish(talk, "ws-history", *range(1, 11))

        async def history(**asked: Any) -> tuple[list[int], int]:
            reply = (await talk.ask(history={"channel": "ws-history", **asked}))["history"]
            return [p["offset"] for p in reply["publications"]], reply["offset"]

        epoch = (await talk.ask(history={"channel": "ws-history"}))["history"]["epoch"]
        assert await history() == ([], 10)
        assert await history(limit=3) == ([1, 2, 3], 10)
        assert await history(limit=3, since={"offset": 5, "epoch": epoch}) == ([6, 7, 8], 10)
        assert await history(limit=3, reverse=True) == ([10, 9, 8], 10)
        assert await history(limit=9, reverse=True, since={"offset": 3, "epoch": epoch}) == ([2, 1], 10)
        assert await history(limit=-1) == (list(range(1, 11)), 10)
        code, text = await talk.fail(history={"channel": "ws-history", "since": {"offset": 1, "epoch": "other"}})
        assert code == 112 and "read its history anew" in text


@pytest.mark.parametrize("offset", [-1, 2**53 + 1])
async def test_a_position_that_cannot_be_is_refused_and_hurts_nobody(dial: Dial, offset: int) -> None:
    async with dial("honest") as talk, dial("mallory") as mallory:
        await publish(talk, "ws-garbage", 1, 2, 3)
        epoch = (await subscribe(talk, "ws-garbage"))["epoch"]
        for command in (
            {"subscribe": {"channel": "ws-garbage", "recover": True, "epoch": epoch, "offset": offset}},
            {"history": {"channel": "ws-garbage", "limit": 3, "since": {"epoch": epoch, "offset": offset}}},
        ):
            code, text = await mallory.fail(**command)
            assert code == 107 and "offset" in text and ("0" in text or str(2**53) in text)
        reply = await subscribe(mallory, "ws-garbage", recover=True, epoch=epoch, offset=1)
        assert [p["offset"] for p in reply["publications"]] == [2, 3]


async def test_who_comes_goes_and_comes_again_at_once_gets_each_message_once(dial: Dial) -> None:
    async with dial() as talk, dial("other") as other:
        await publish(other, "ws-again", 0)
        again = {"subscribe": {"channel": "ws-again"}}
        lines = [{"id": 2, **again}, {"id": 3, "unsubscribe": {"channel": "ws-again"}}, {"id": 4, **again}]
        await talk.socket.send("\n".join(map(json.dumps, lines)))
        replies = [await talk.reply(number) for number in (2, 3, 4)]
        assert [name for reply in replies for name in reply] == ["subscribe", "unsubscribe", "subscribe"]
        await publish(other, "ws-again", 1, 2)
        assert await talk.texts(2) == [(2, {"text": 1}), (3, {"text": 2})]


async def test_who_comes_and_goes_at_once_leaves_nothing(dial: Dial, redis_of_module: RedisProcess) -> None:
    """Of a channel nobody knows yet; who comes again belongs to it."""
    async with dial("passer") as talk:
        lines = [{"id": 2 + number, name: {"channel": f"ws-pass-{room}"}} for number, (room, name) in enumerate(PASSES)]
        await talk.socket.send("\n".join(map(json.dumps, lines)))
        replies = [await talk.reply(line["id"]) for line in lines]
        assert [name for reply in replies for name in reply] == [
            "subscribe",
            "unsubscribe",
            "subscribe",
            "unsubscribe",
            "subscribe",
        ]
        with direct(redis_of_module) as client:
            assert client.smembers("user:passer:channels") == {"ws-pass-2"}
            assert client.smembers("channel:ws-pass-1:subscribers") == set()
            await until(lambda: not client.exists("presence:ws-pass-1"))
            assert client.smembers("channel:ws-pass-2:subscribers") == {"passer"}


@pytest.mark.parametrize("first", [[], ["subscribe"], ["unsubscribe", "subscribe"]], ids=["alone", "begun", "again"])
async def test_who_unsubscribes_and_closes_at_once_has_left(
    dial: Dial, http: httpx.AsyncClient, first: list[str]
) -> None:
    """Also of what had not begun when it said so."""
    name = f"ws-parting-{len(first)}"
    async with dial("parting") as talk:
        await subscribe(talk, name)
        commands = [*first, "unsubscribe"]
        lines = [{"id": 10 + number, what: {"channel": name}} for number, what in enumerate(commands)]
        await talk.socket.send("\n".join(map(json.dumps, lines)))
        talk.socket.transport.write_eof() if not first else await talk.socket.close()
    await until(lambda: _no_member(http, name, "parting"))


async def _no_member(http: httpx.AsyncClient, channel: str, user: str) -> bool:
    return not await _member(http, channel, user)


@pytest.mark.parametrize("epoch", ["", None], ids=["any", "its own"])
async def test_from_the_beginning_of_a_channel_that_holds_all(dial: Dial, epoch: str | None) -> None:
    async with dial() as talk, dial("newcomer") as newcomer:
        channel = "ws-zero-any" if epoch == "" else "ws-zero-own"
        await publish(talk, channel, 1, 2, 3)
        own = (await talk.ask(history={"channel": channel}))["history"]["epoch"]
        reply = await subscribe(newcomer, channel, recover=True, epoch=own if epoch is None else epoch, offset=0)
        assert reply["recovered"] and reply["epoch"] == own
        assert [pub["offset"] for pub in reply["publications"]] == [1, 2, 3]


async def test_from_the_beginning_of_a_channel_that_was_trimmed(dial: Dial, redis_of_module: RedisProcess) -> None:
    async with dial() as talk, dial("newcomer") as newcomer:
        await publish(talk, "ws-zero-cut", *range(5))
        with direct(redis_of_module) as client:
            client.xtrim("message:ws-zero-cut", maxlen=3, approximate=False)
        reply = await subscribe(newcomer, "ws-zero-cut", recover=True, epoch="", offset=0)
        assert not reply["recovered"] and reply["offset"] == 5 and reply["publications"] == []


async def test_who_subscribes_is_present_at_once(dial: Dial) -> None:
    async with dial("present") as talk:
        for room in range(20):
            asked: list[dict[str, dict[str, str]]] = [{"subscribe": {}}, {"presence": {}}, {"presence_stats": {}}]
            for command in asked:
                next(iter(command.values()))["channel"] = f"ws-here-{room}"
            lines = [{"id": 10 + number, **command} for number, command in enumerate(asked)]
            await talk.socket.send("\n".join(map(json.dumps, lines)))
            _, presence, stats = [await talk.reply(line["id"]) for line in lines]
            assert [info["user"] for info in presence["presence"]["presence"].values()] == ["present"]
            assert stats["presence_stats"] == {"num_clients": 1, "num_users": 1}


async def test_a_channel_that_nobody_made_yet_is_empty_for_who_may_make_it(dial: Dial) -> None:
    """SDKs ask for state first, and subscribe then."""
    async with dial("early") as talk:
        page = (await talk.ask(history={"channel": "ws-unmade", "limit": 10}))["history"]
        assert page == {"publications": [], "epoch": "", "offset": 0}
        assert (await talk.ask(presence={"channel": "ws-unmade"}))["presence"] == {"presence": {}}
        stats = (await talk.ask(presence_stats={"channel": "ws-unmade"}))["presence_stats"]
        assert stats == {"num_clients": 0, "num_users": 0}
        reply = await subscribe(talk, "ws-unmade", recover=True, epoch=page["epoch"], offset=page["offset"])
        assert reply["recovered"] and reply["offset"] == 0


async def test_unsubscribe_ends_pushes_and_membership(dial: Dial, http: httpx.AsyncClient) -> None:
    async with dial("leaver") as talk, dial("other") as other:
        await subscribe(talk, "ws-leave")
        await until(lambda: _member(http, "ws-leave", "leaver"))
        assert await talk.ask(rpc={"method": "subscriptions.list"}) == {"rpc": {"data": {"channels": ["ws-leave"]}}}
        assert await talk.ask(unsubscribe={"channel": "ws-leave"}) == {"unsubscribe": {}}
        assert not await _member(http, "ws-leave", "leaver")
        await publish(other, "ws-leave", "x")
        await talk.ask(history={"channel": "ws-leave"})
        assert talk.pushes == []


async def _member(http: httpx.AsyncClient, channel: str, user: str) -> bool:
    reply = await http.get(f"/api/channels/{channel}/subscribers/{user}")
    return reply.status_code == 200 and bool(reply.json()["subscribed"])


async def test_rpc_channels(dial: Dial) -> None:
    async with dial("owner") as talk:
        made = (await talk.ask(rpc={"method": "channels.create", "data": {"name": "Ws-Rpc", "description": "d"}}))[
            "rpc"
        ]
        assert made["data"]["id"] == "ws-rpc" and made["data"]["name"] == "Ws-Rpc" and made["data"]["owner"] == ""
        assert (await talk.fail(rpc={"method": "channels.create", "data": {"name": "ws-rpc"}}))[0] == 105
        data = {"id": "ws-rpc", "description": "گفت‌وگو"}
        assert (await talk.ask(rpc={"method": "channels.update", "data": data}))["rpc"]["data"][
            "description"
        ] == "گفت‌وگو"
        listed = (await talk.ask(rpc={"method": "channels.list", "data": {}}))["rpc"]["data"]["channels"]
        assert "ws-rpc" in [c["id"] for c in listed]
        assert await talk.ask(rpc={"method": "channels.delete", "data": {"id": "ws-rpc"}}) == {"rpc": {"data": {}}}
        assert (await talk.fail(rpc={"method": "channels.delete", "data": {"id": "ws-rpc"}}))[0] == 102


@pytest.mark.parametrize("method", sorted(LONG))
async def test_an_answer_that_may_be_long_is_awaited_before_the_next_command(dial: Dial, method: str) -> None:
    data = {"id": "ws-long"} if method in ("channels.roles", "channels.subscribers") else {}
    async with dial() as talk:
        await subscribe(talk, "ws-long")
        commands = {"id": 8, "rpc": {"method": method, "data": data}}, {"id": 9, "ping": {}}
        await talk.socket.send("\n".join(map(json.dumps, commands)))
        while len(talk.replies) < 2:
            await talk.read()
        assert [*talk.replies] == [8, 9]


async def test_rpc_publish_may_be_repeated(dial: Dial) -> None:
    async with dial() as talk:
        call = {"method": "publish", "data": {"channel": "Ws-Key", "data": {"text": "x"}, "key": "k1"}}
        first = (await talk.ask(rpc=call))["rpc"]["data"]
        again = (await talk.ask(rpc=call))["rpc"]["data"]
        assert first["id"] == f"1-{first['time']}" and first["offset"] == 1 and not first["duplicate"]
        assert again == first | {"duplicate": True}


async def test_deleting_a_channel_tells_its_subscribers_not_to_come_back(dial: Dial, http: httpx.AsyncClient) -> None:
    async with dial() as talk:
        await subscribe(talk, "ws-gone")
        assert (await http.delete("/api/channels/ws-gone")).status_code == 204
        assert (await talk.push("unsubscribe"))["unsubscribe"]["code"] == 2000
        assert (await subscribe(talk, "ws-gone"))["offset"] == 0  # asked for again, it is made anew


# -- recovery


async def test_recovery_gives_what_was_missed(dial: Dial) -> None:
    async with dial() as talk, dial("back") as back:
        epoch = (await subscribe(talk, "ws-back"))["epoch"]
        await publish(talk, "ws-back", *range(1, 31))
        reply = await subscribe(back, "ws-back", recover=True, epoch=epoch, offset=10)
        assert reply["was_recovering"] and reply["recovered"] and reply["offset"] == 10
        offsets = [p["offset"] for p in reply["publications"]]
        await publish(talk, "ws-back", "live")
        last = 31 - 10 - len(offsets)
        assert offsets + [o for o, _ in await back.texts(last)] == list(range(11, 32))


@pytest.mark.parametrize(
    ("position", "recovered"),
    [((None, 60), True), ((None, 10), True), ((None, 9), False), ((None, 61), False), (("other", 60), False)],
    ids=["level", "at the limit", "beyond the limit", "ahead of the top", "another epoch"],
)
async def test_what_can_be_recovered(dial: Dial, position: tuple[str | None, int], recovered: bool) -> None:
    async with dial() as talk, dial("back") as back:
        reply = (await talk.ask(history={"channel": "ws-limit"}))["history"]
        if not reply["offset"]:
            await publish(talk, "ws-limit", *range(60))
            reply = (await talk.ask(history={"channel": "ws-limit"}))["history"]
        epoch, offset = position
        got = await subscribe(back, "ws-limit", recover=True, epoch=epoch or reply["epoch"], offset=offset)
        assert got["recovered"] is recovered
        assert got["offset"] == (offset if recovered else 60)
        assert len(got["publications"]) == (60 - offset if recovered else 0)


async def test_what_was_trimmed_cannot_be_recovered(dial: Dial, redis_of_module: RedisProcess) -> None:
    async with dial() as talk, dial("back") as back, dial("strict") as strict:
        await publish(talk, "ws-trim", *range(20))
        with direct(redis_of_module) as client:
            client.xtrim("message:ws-trim", maxlen=5, approximate=False)
            epoch = client.hget("channel:ws-trim", "epoch")
        reply = await subscribe(back, "ws-trim", recover=True, epoch=epoch, offset=10)
        assert (reply["recovered"], reply["offset"]) == (False, 20)
        asked = {"channel": "ws-trim", "recover": True, "epoch": epoch, "offset": 10, "flag": 2}
        assert (await strict.fail(subscribe=asked))[0] == 112
        reply = await subscribe(strict, "ws-trim", recover=True, epoch=epoch, offset=15)
        assert reply["recovered"] and [p["offset"] for p in reply["publications"]] == [16, 17, 18, 19, 20]


async def test_a_hole_in_pubsub_is_filled_from_the_stream(dial: Dial, redis_of_module: RedisProcess) -> None:
    """Messages are put into the stream behind the fan-out's back; the next run shows that they are missing."""
    async with dial() as talk:
        epoch = (await subscribe(talk, "ws-hole"))["epoch"]
        await publish(talk, "ws-hole", 1)
        await talk.texts(1)
        with direct(redis_of_module) as client:
            for offset in (2, 3):
                fields = {"user": "u", "client": "-", "data": json.dumps({"text": offset})}
                client.xadd("message:ws-hole", fields, id=f"{offset}-1000")
            client.hset("channel:ws-hole", "offset", 3)
            stale = f"{epoch} 1 1 1000\n" + json.dumps({"push": {"channel": "ws-hole", "pub": {"data": "again"}}})
            client.publish("channel:ws-hole", stale)
            foreign = "other 4 4 1000\n" + json.dumps({"push": {"channel": "ws-hole", "pub": {"data": "foreign"}}})
            client.publish("channel:ws-hole", foreign)
        await publish(talk, "ws-hole", 4)
        assert await talk.texts(4) == [(i, {"text": i}) for i in (1, 2, 3, 4)]


async def test_a_new_epoch_is_told(dial: Dial, redis_of_module: RedisProcess) -> None:
    async with dial() as talk:
        await subscribe(talk, "ws-epoch")
        await publish(talk, "ws-epoch", 1)
        with direct(redis_of_module) as client:
            client.delete("channel:ws-epoch")
        await talk.ask(publish={"channel": "ws-epoch", "data": 2})
        assert (await talk.push("unsubscribe"))["unsubscribe"]["code"] == 2500


# -- bad input


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        ({"subscribe": {"channel": "a b"}}, 107, "1 to 64 letters"),
        ({"subscribe": {"channel": "General"}}, 107, "the id of this channel is general"),
        ({"publish": {"channel": "a{b", "data": 1}}, 107, "1 to 64 letters"),
        ({"publish": {"channel": "*", "data": 1}}, 107, "1 to 64 letters"),
        ({"publish": {"channel": "a\u0007", "data": 1}}, 107, "1 to 64 letters"),
        ({"publish": {"channel": "\u202ea", "data": 1}}, 107, "1 to 64 letters"),
        ({"publish": {"channel": "x" * 65, "data": 1}}, 107, "1 to 64 letters"),
        ({"publish": {"channel": 5, "data": 1}}, 107, "publish.channel"),
        ({"publish": {"channel": "bad-input"}}, 107, "data"),
        ({"publish": {"channel": "bad-input", "data": "x" * 65536}}, 107, "at most 65536 bytes"),
        ({"history": {"channel": "bad-input", "limit": "all"}}, 107, "history.limit"),
        ({"history": {"channel": "bad-input", "since": {"offset": "x"}}}, 107, "history.since.offset"),
        ({"dance": {}}, 104, "method dance not found; there are connect"),
        ({"rpc": {"method": "dance"}}, 104, "there are publish, channels.list"),
        ({"rpc": {"method": "publish", "data": {"channel": "x"}}}, 107, "publish takes"),
        ({"rpc": {"method": "publish", "data": {"channel": "x", "data": 1, "key": "k" * 129}}}, 107, "128 bytes"),
        ({"rpc": {"method": "channels.create", "data": {}}}, 107, "name"),
        ({"rpc": {"method": "channels.create", "data": {"name": "q", "description": "a\nb"}}}, 107, "one line"),
        ({}, 104, "nothing not found"),
    ],
)
async def test_bad_commands_are_explained_and_change_nothing(
    dial: Dial, redis_of_module: RedisProcess, command: dict[str, Any], code: int, says: str
) -> None:
    async with dial() as talk:
        with direct(redis_of_module) as client:
            keys = set(client.scan_iter("message:*")), set(client.scan_iter("channel:*"))
            got, text = await talk.fail(**command)
            assert got == code and says in text
            assert (set(client.scan_iter("message:*")), set(client.scan_iter("channel:*"))) == keys
        assert (await talk.ask(ping={})) == {"ping": {}}  # the connection lives


@pytest.mark.parametrize(
    "command",
    [
        '{"id":7,"publish":{"channel":"ws-deep","data":%s}}',
        '{"id":7,"rpc":{"method":"publish","data":{"channel":"ws-deep","data":%s}}}',
        '{"id":7,"rpc":{"method":"channels.create","data":{"name":"ws-deep","x":%s}}}',
        '{"id":7,"dance":%s}',
        '{"id":7,"connect":{"data":%s}}',
        '{"id":7,"ping":%s,"connect":{}}',
    ],
    ids=["publish", "rpc publish", "rpc", "unknown", "connect", "ping"],
)
async def test_however_deep_json_is_it_is_answered(dial: Dial, server: PeykServer, command: str) -> None:
    """Or, where not even its id is found, the connection ends (3501). Parts are decoded twice, then with less room."""
    for depth in (33, 100, *range(930, 1000), 20_000):
        async with dial() as talk:
            await talk.socket.send(command % ("[" * depth + "]" * depth))
            try:
                assert (await talk.reply(7))["error"]["code"] in (104, 107)
            except ConnectionClosed:
                assert depth > 900 and talk.socket.close_code == 3501
    assert "Traceback" not in server.log.read_text()


async def test_half_of_a_surrogate_pair_is_refused_and_the_connection_goes_on(dial: Dial) -> None:
    """As a text that was cut inside an emoji: JavaScript writes it as an escape, and its id behind it."""
    async with dial() as talk:
        await talk.socket.send(r'{"publish":{"channel":"ws-half","data":{"text":"\ud83d"}},"id":7}')
        error = (await talk.reply(7))["error"]
        assert error["code"] == 107 and "half of a surrogate pair" in error["message"]
        assert await talk.ask(publish={"channel": "ws-half", "data": {"text": "😀"}}) == {"publish": {}}


async def test_the_largest_message_is_taken(dial: Dial) -> None:
    async with dial() as talk:
        assert await talk.ask(publish={"channel": "ws-large", "data": "x" * (65536 - 2)}) == {"publish": {}}


async def test_nothing_is_done_before_connect(dial: Dial) -> None:
    async with dial("") as talk:
        code, text = await talk.fail(publish={"channel": "ws-early", "data": 1})
        assert code == 107 and "connect first" in text
        assert (await talk.fail(connect={"data": {"user": "a b"}}))[0] == 107
        assert "connect" in await talk.ask(connect={})


async def test_subscribing_twice(dial: Dial) -> None:
    async with dial() as talk:
        await subscribe(talk, "ws-twice")
        assert (await talk.fail(subscribe={"channel": "ws-twice"}))[0] == 105


@pytest.mark.parametrize(
    ("frame", "code"),
    [("not json", 3501), ("[1]", 3501), ('{"id":"x"}', 3501), (b"{}", 1003), ("x" * (1024 * 1024 + 1), 1009)],
    ids=["not JSON", "no object", "no id", "binary", "too large"],
)
async def test_frames_nobody_can_answer_end_the_connection(server: PeykServer, frame: str | bytes, code: int) -> None:
    async with connect(server.ws_url, proxy=None) as socket:
        await socket.send(json.dumps(PING))
        await socket.recv()
        with pytest.raises(ConnectionClosed):  # the server may close while a large frame is still on its way
            await socket.send(frame)
            await socket.recv()
        assert socket.close_code == code


async def test_text_that_is_not_utf8_and_fragments(server: PeykServer) -> None:
    async with connect(server.ws_url, proxy=None) as socket:
        await socket.send(['{"id":1,', '"connect"', ":{}}"])  # three fragments of one message
        assert '"connect"' in str(await socket.recv())
        await socket.send(b'{"id":2,"ping":{"\xff":1}}', text=True)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1007


# -- sockets


async def test_who_never_connects_is_dropped() -> None:
    with PeykServer({"CONNECT_TIMEOUT": "1"}) as server:
        async with connect(server.ws_url, proxy=None) as socket:
            with pytest.raises(ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 3501


async def test_who_does_not_answer_pings_is_dropped() -> None:
    with PeykServer({"PING_INTERVAL": "1"}) as server:
        async with connect(server.ws_url, proxy=None) as socket:
            await socket.send(json.dumps(PING))
            frames = []
            with pytest.raises(ConnectionClosed):
                while True:
                    frames.append(await socket.recv())
            assert frames[1:] == ["{}"] and socket.close_code == 3012


async def test_clients_are_told_to_come_back_when_the_server_stops(dial: Dial) -> None:
    with PeykServer() as server:
        async with dial("sara", server) as talk:
            await subscribe(talk, "general")
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            with pytest.raises(ConnectionClosed):
                await talk.push("never")
            assert talk.socket.close_code == 3001
            assert await stopping == -signal.SIGTERM  # uvicorn ends by the signal it was sent, when all is done


async def test_redis_away_and_back_under_an_open_socket() -> None:
    """The embedded Valkey is killed: sockets stay, publishing says so, and it comes back by itself."""
    with PeykServer() as server:
        async with connect(server.ws_url, proxy=None) as socket:
            talk = Talk(socket)
            await talk.ask(connect={})
            await subscribe(talk, "away")
            await publish(talk, "away", 1)
            os.kill(int((server.dir / "valkey.pid").read_text()), signal.SIGKILL)
            async with asyncio.timeout(180):
                tries = 0
                while "publish" not in (reply := await talk.ask(publish={"channel": "away", "data": "back"})):
                    assert reply["error"]["temporary"] is True
                    tries += 1
            offsets = [o for o, _ in await talk.texts(2)]
            assert offsets == list(range(1, len(offsets) + 1))
