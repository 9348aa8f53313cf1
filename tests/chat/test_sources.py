"""What a terminal does when the other side fails: on Redis and on a server, the same promises."""

import asyncio
import json
import re
from pathlib import Path

import pytest

from chat.auth import Tokens
from chat.connection import addresses
from chat.direct import Direct
from chat.errors import BadRequest, ConnectionEnded, Unauthorized, Unavailable
from chat.lines import Lines
from chat.models import User
from chat.node import Node
from chat.opening import opened
from chat.private import private_id
from chat.remote import Remote, sign_in
from chat.settings import ServerSettings
from chat.slash import Slash
from chat.terminal import Terminal
from chat.transcript import Entry, Gap
from chat.words import Words
from tests.chat.screens import impatience, node
from tests.services import PeykServer, RedisProcess, free_port, until

__all__ = ["impatience", "node"]


class Person:
    """Somebody at a terminal that writes lines."""

    def __init__(self, source: Direct | Remote, channel: str = "general", language: str = "en") -> None:
        self.lines: list[str] = []
        self.face = Lines(self.lines.append, Words(language))
        self.source, self.channel = source, channel
        self.terminal = self.face.terminal = Terminal(source, self.face, Words(language))
        self.slash = Slash(self.terminal)

    async def __aenter__(self) -> "Person":
        await self.terminal.start(self.channel)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.terminal.close()
        await self.source.close()

    async def enter(self, *lines: str) -> None:
        for line in lines:
            await self.slash.enter(line)

    async def reads(self, end: str) -> None:
        await until(lambda: any(line.endswith(end) for line in self.lines), 15, f"{end!r} in {self.lines}")

    def messages(self) -> list[str]:
        """The texts of the current channel."""
        entries = [item for item in self.terminal.transcript.items() if isinstance(item, Entry)]
        return [entry.text for entry in entries if entry.said is not None]


def direct(node: Node, user: str) -> Direct:
    source = Direct(node, User.named(user))
    source.start()
    return source


async def remote(server: PeykServer, user: str, token: str = "") -> Remote:
    source = Remote(server.url, user, token)
    await source.start()
    return source


# -- every command, on both


@pytest.mark.parametrize("kind", ["direct", "remote"])
async def test_every_command(node: Node, kind: str, tmp_path: Path) -> None:
    redis_url = node.settings.redis_url
    with PeykServer({"REDIS_URL": str(redis_url), "DATA_DIR": str(tmp_path)}) as server:
        sara = Person(direct(node, "sara") if kind == "direct" else await remote(server, "sara"))
        babak = Person(direct(node, "babak") if kind == "direct" else await remote(server, "babak"))
        async with sara, babak:
            await sara.enter("hello", "/send second", "/me waves", "//slashed")
            for end in ("] sara: hello", "] sara: second", "] * sara waves", "] sara: /slashed"):
                await babak.reads(end)
            await until(lambda: _who(babak), 60, "both are here")
            await babak.enter("/topic")
            await sara.enter("/topic Everyday talk")
            await babak.enter("/topic", "/search SEC", "/search nothing", "/history")
            await babak.reads("* general has no topic; /topic <text> sets one")
            await babak.reads("* general: Everyday talk")
            await babak.reads("* 1 found for “SEC”")
            assert any(re.match(r"\[(Today|Yesterday) .*\] sara: second$", line) for line in babak.lines)
            await babak.reads("* nothing found for “nothing” in the last 4 messages")
            await babak.enter("/join برنامه‌نویسی", "/channels")
            await babak.reads("» برنامه‌نویسی")
            assert "+ general  Everyday talk" in babak.lines
            await babak.enter("/leave", "to nobody", "/dance", "/join a b", "/join", "/help", "/join General")
            await babak.reads("* left برنامه‌نویسی")
            await babak.reads("! you are in no channel; /join <channel> first")
            assert any(line.startswith("! there is no command /dance; there are /join") for line in babak.lines)
            assert any(line.startswith("! a channel name has 1 to 64 letters") for line in babak.lines)
            assert "! /join <channel>: what is missing? See /help" in babak.lines
            assert all(any(line.startswith(usage) for line in babak.lines) for usage in babak.slash.table)
            if kind == "remote":
                await babak.enter("/msg sara x")
                await babak.reads("sign in first")  # guests have no private channels
            await babak.enter("/name بابک", "renamed")
            await sara.reads("] بابک: renamed")
            await babak.enter("/quit")
            assert babak.face.running is False


async def _who(person: Person) -> bool:
    """Whether /who names both: being there is told within moments, not at once."""
    await person.enter("/who")
    return "* 2 here: babak, sara" in person.lines


def test_who_talks_with_whom_is_not_for_others_to_ask() -> None:
    """Whether a channel of two is there can be asked by whoever knows its name."""
    one, other = User.named("Sara"), User.named("بابک")
    assert private_id("a", one, other) == private_id("a", other, one) != private_id("b", one, other)


class Held:
    """Something asked of a source that gets no answer before `goes_on` is set."""

    def __init__(self, source: Direct | Remote, name: str) -> None:
        self.asked, self.goes_on = asyncio.Event(), asyncio.Event()
        self._work = getattr(source, name)
        setattr(source, name, self)

    async def __call__(self, *what: object) -> object:
        self.asked.set()
        await self.goes_on.wait()
        return await self._work(*what)


async def test_what_is_typed_behind_a_join_is_for_where_it_leads(node: Node) -> None:
    async with Person(direct(node, "sara")) as sara:
        join = Held(sara.source, "subscribe")
        lines = ("/join room", "for the room", "/topic Of the room")
        typed = [asyncio.create_task(sara.enter(line)) for line in lines]
        await join.asked.wait()
        await sara.enter("/quit")
        assert sara.face.running is False, "it waits for nothing"
        join.goes_on.set()
        await asyncio.gather(*typed)
        await sara.terminal.outbox.settled()
        room = sara.terminal.current
        assert room is not None and (room.channel.id, room.channel.description) == ("room", "Of the room")
        assert sara.messages() == ["for the room"]


@pytest.mark.parametrize(
    ("held", "lines", "text"),
    [("before", ("/search x", "here"), "here"), ("present", ("/msg babak to him",), "to him")],
)
async def test_what_is_typed_goes_there_whatever_is_shown_meanwhile(
    node: Node, held: str, lines: tuple[str, ...], text: str
) -> None:
    async with Person(direct(node, "sara")) as sara:
        await sara.enter("/join other")
        other = sara.terminal.views["other"]
        await sara.enter("/join general")
        slow = Held(sara.source, held)
        typed = [asyncio.create_task(sara.enter(line)) for line in lines]
        await slow.asked.wait()
        place = sara.terminal.current
        shown = asyncio.create_task(sara.terminal.show(other))  # Alt+Down
        await until(lambda: sara.terminal.current is other)
        slow.goes_on.set()
        await asyncio.gather(*typed, shown)
        await sara.terminal.outbox.settled()
        assert place is not None and place is not other
        assert [entry.text for entry in place.transcript.entries if entry.said is not None] == [text]
        assert sara.messages() == []


async def test_a_private_channel_is_for_two(node: Node) -> None:
    sara, babak, omid = [Person(direct(node, name)) for name in ("Sara", "بابک", "omid")]
    async with sara, babak, omid:
        await sara.enter("/msg بابك only you")  # another spelling of the same name
        await sara.reads("] Sara: only you")
        channel = sara.terminal.current
        assert channel is not None and channel.channel.id.startswith("dm-")
        await until(lambda: channel.channel.id in babak.terminal.views, 60, "it comes to him by itself")
        view = babak.terminal.views[channel.channel.id]
        await until(lambda: view.unread == 1 and view.mentioned)
        assert babak.terminal.title(view.channel) == "@Sara" and sara.terminal.title(channel.channel) == "@بابک"
        await babak.enter("/msg @sara yes")
        await sara.reads("] بابک: yes")
        await omid.enter(f"/join {channel.channel.id}", "/msg omid me", "/msg", "/channels")
        assert any("is not for a stranger" in line for line in omid.lines)
        assert "! that is you; name somebody else" in omid.lines
        assert not any("dm-" in line and not line.startswith("!") for line in omid.lines)


async def test_a_new_name_takes_nobody_into_the_old_ones_private_channels(node: Node) -> None:
    async with Person(direct(node, "sara")) as sara, Person(direct(node, "babak")):
        await sara.enter("/msg babak only you")
        await sara.reads("] sara: only you")
        private = sara.terminal.current
        assert private is not None and private.subscribed
        await sara.enter("/name kaveh")
        await sara.reads("* you are kaveh now")
        assert await node.subscriptions.channels("kaveh") == ["general"]
        assert not private.subscribed and private.channel.id not in sara.terminal.known
        assert any(line.startswith("* @babak: ") and "is not for a stranger" in line for line in sara.lines)
        await node.producer.publish(private.channel.id, b'{"text":"are you there?"}', user="babak")
        await sara.enter("/join general", "hello")
        await sara.reads("] kaveh: hello")
        assert not any("are you there?" in line for line in sara.lines)
        await until(lambda: _present(node, "general", ["babak", "kaveh"]))
        await until(lambda: _present(node, private.channel.id, []))


async def _present(node: Node, channel: str, users: list[str]) -> bool:
    return sorted(info.user for info in (await node.presence.clients(channel)).values()) == users


async def test_a_private_channel_is_joined_by_the_name_it_is_shown_under(node: Node) -> None:
    async with Person(direct(node, "sara")) as sara:
        await sara.enter("/msg بابک psst", "/leave", "/channels")
        assert any(line.strip() == "@بابک" or line.strip().startswith("@بابک ") for line in sara.lines)
        assert sara.slash.complete("/join @با") == (len("/join "), ["@بابک"])
        await sara.enter("/join @بابک", "again")
        await sara.reads("] sara: again")
        assert sara.terminal.current is not None and sara.terminal.current.channel.kind == "pair"


async def test_in_persian_an_error_says_what_it_is_and_then_its_detail(node: Node) -> None:
    await node.channels.create("news", "", "owner", "read-only")
    async with Person(direct(node, "sara"), language="fa") as sara:
        await sara.enter("/join a b", "/name a b", "/msg sara x")
        await sara.reads(
            "! نام کانال ۱ تا ۶۴ حرف، رقم، «_»، «-» یا «.» دارد، بی‌فاصله و بی‌نویسهٔ ناپیدا، و با نقطه آغاز نمی‌شود"
        )
        assert any(line.startswith("! پذیرفتنی نیست: a user name has 1 to 64") for line in sara.lines)
        assert "! پذیرفتنی نیست: that is you; name somebody else" in sara.lines
        await sara.enter("/join news", "may I?")
        await until(lambda: any(line.startswith("! اجازهٔ این کار را ندارید: ") for line in sara.lines))
        await node.channels.kick("news", User.named("sara"))
        await sara.reads("* news: شما را از اینجا بیرون کرده‌اند: kicked")


# -- faults


async def test_redis_goes_and_comes_back(tmp_path: Path) -> None:
    with RedisProcess("valkey") as redis:
        settings = ServerSettings(redis_url=redis.url, data_dir=tmp_path, publish_timeout=0.5, _env_file=None)
        async with Node(settings, "terminal") as node:
            sara, babak = Person(direct(node, "sara")), Person(direct(node, "babak"))
            async with sara, babak:
                await sara.enter("before")
                await babak.reads("] sara: before")
                redis.kill()
                await sara.enter("while it was away", "and after that")
                (first, _) = sara.terminal.transcript.outgoing
                await until(lambda: not sara.terminal.up, 60, "it is noticed")
                await until(lambda: first.state == "waiting")
                redis.start()
                await babak.reads("] sara: and after that")
                await sara.reads("] sara: and after that")
                assert babak.messages() == ["before", "while it was away", "and after that"] == sara.messages()
                assert sara.terminal.up and not sara.terminal.unsent


async def test_a_server_goes_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    with RedisProcess("valkey") as redis:
        env = {"REDIS_URL": redis.url, "DATA_DIR": str(tmp_path)}
        with PeykServer(env, port) as server:
            sara, babak = Person(await remote(server, "sara")), Person(await remote(server, "babak"))
            async with sara, babak:
                await sara.enter("before")
                await babak.reads("] sara: before")
                server.kill()
                await until(lambda: not sara.terminal.up and not babak.terminal.up, 60, "it is noticed")
                await sara.enter("while it was away")
                (outgoing,) = sara.terminal.transcript.outgoing
                await until(lambda: outgoing.state == "waiting")
                async with Node(ServerSettings(redis_url=redis.url, _env_file=None), "tool") as other:
                    await other.producer.publish("general", b'{"text":"meanwhile"}', user="other")
                server.start()
                await babak.reads("] sara: while it was away")
                await until(lambda: not sara.terminal.unsent)
                assert babak.messages() == ["before", "meanwhile", "while it was away"] == sara.messages()


async def test_what_a_server_pushes_arrives_over_one_connection(tmp_path: Path) -> None:
    with PeykServer({"DATA_DIR": str(tmp_path)}) as server:
        sara, babak = Person(await remote(server, "sara")), Person(await remote(server, "babak"))
        async with sara, babak:
            for text in ("one", "two", "three"):
                await sara.enter(text)
                await babak.reads(f"] sara: {text}")
            assert len(babak.source.clients) == 1 == len(sara.source.clients), "nobody had to come back for them"
            assert sara.terminal.up and babak.terminal.up


async def test_a_message_whose_answer_was_lost_is_stored_once(node: Node) -> None:
    source = direct(node, "sara")
    source.clients = set()  # its own messages do not tell it either
    async with Person(source) as sara:
        publish, keys = source.publish, []

        async def lose(channel: str, data: bytes, key: str) -> object:
            place = await publish(channel, data, key)
            keys.append(key)
            if len(keys) < 3:
                raise Unavailable("the answer was lost")
            return place

        source.publish = lose  # type: ignore[method-assign,assignment]
        await sara.enter("once")
        await sara.terminal.outbox.settled()
        assert len(keys) == 3 and len(set(keys)) == 1
        assert sara.messages() == ["once"] and not sara.terminal.unsent
        assert (await source.before("general", None, 10)).top == 1


async def test_a_message_that_ends_connections_is_given_up(node: Node) -> None:
    source = direct(node, "sara")
    async with Person(source) as sara:
        publish, sent = source.publish, []

        async def complain(channel: str, data: bytes, key: str) -> object:
            sent.append(data)
            if b"poison" in data:
                raise ConnectionEnded("invalid text")
            return await publish(channel, data, key)

        source.publish = complain  # type: ignore[method-assign,assignment]
        await sara.enter("poison")
        await sara.enter("and on")
        await sara.reads("] sara: and on")
        view = sara.terminal.current
        assert view is not None and [(o.text, o.state, o.reason) for o in view.transcript.outgoing] == [
            ("poison", "failed", "invalid text")
        ]
        assert len(sent) == 3


async def test_what_is_refused_can_be_sent_again_or_dropped(node: Node) -> None:
    await node.channels.create("news", "", "owner", "read-only")
    async with Person(direct(node, "sara"), "news") as sara:
        await sara.enter("may I?")
        await sara.reads("ask its owner")
        await node.channels.give_role("news", User.named("sara"), "moderator")
        view = sara.terminal.current
        assert view is not None and [o.state for o in view.transcript.outgoing] == ["failed"]
        sara.terminal.outbox.again(view)
        await sara.reads("] sara: may I?")
        with pytest.raises(BadRequest, match="nothing to send again"):
            sara.terminal.outbox.again(view)
        await node.channels.give_role("news", User.named("sara"), "")
        await sara.enter("and now?")
        await until(lambda: [o.state for o in view.transcript.outgoing] == ["failed"])
        assert sara.terminal.outbox.drop(view) == ["and now?"] and not sara.terminal.unsent


async def test_what_is_gone_is_told_where_it_was(node: Node) -> None:
    async with Person(direct(node, "sara")) as sara:
        await sara.enter("one")
        await sara.reads("] sara: one")
        epoch = await node.redis.hget("channel:general", "epoch")
        await node.redis.hset("channel:general", "offset", 4)  # 2, 3 and 4 were trimmed before anybody saw them
        await node.producer.publish("general", json.dumps({"text": "five"}).encode(), user="babak")
        await sara.reads("] babak: five")
        await sara.reads("* 3 messages missed here")
        assert [i for i in sara.terminal.transcript.items() if isinstance(i, Gap)] == [Gap(3)]
        assert epoch == await node.redis.hget("channel:general", "epoch")


async def test_a_deleted_channel_is_not_made_again_by_itself(node: Node) -> None:
    async with Person(direct(node, "sara"), "short") as sara:
        await node.channels.delete("short")
        await sara.reads("* short: channel deleted; /join short to make it anew")
        assert not await node.redis.exists("channel:short")
        await sara.enter("/join short", "again")
        await sara.reads("] sara: again")
        assert sara.messages() == ["again"]


async def test_a_channel_one_belongs_to_comes_by_itself(node: Node) -> None:
    async with Person(direct(node, "sara")) as sara:
        await node.channels.ensure("elsewhere", "")
        await node.subscriptions.add(User.named("sara"), "elsewhere")  # joined in a browser
        await until(lambda: "elsewhere" in sara.terminal.views)
        await node.producer.publish("elsewhere", b'{"text":"hi"}', user="babak")
        await until(lambda: sara.terminal.views["elsewhere"].unread == 1)


async def test_who_wants_to_talk_is_told_and_answered(valkey_process: RedisProcess, tmp_path: Path) -> None:
    """Nobody is in a channel of two before they accept; each ask is told once."""
    secret = "s" * 32
    with PeykServer({"REDIS_URL": valkey_process.url, "DATA_DIR": str(tmp_path), "AUTH_SECRET": secret}) as server:
        sara, reza, spam = [
            Person(await remote(server, name, Tokens(secret).issue(name, 600))) for name in ("sara", "reza", "spam")
        ]
        async with sara, reza, spam:
            await sara.enter("/msg reza hello")
            await sara.reads("] sara: hello")
            await spam.enter("/msg reza buy")
            await reza.reads("* sara wants to talk to you: /msg sara accepts, /decline sara does not")
            await reza.reads("* spam wants to talk to you: /msg spam accepts, /decline spam does not")
            assert set(reza.terminal.views) == {"general"}
            await reza.enter("/decline @spam", "/msg sara hi")
            await reza.reads("* spam does not talk to you alone")
            await reza.reads("] sara: hello")
            await sara.reads("] reza: hi")
            assert len([line for line in reza.lines if "wants to talk" in line]) == 2
            assert sorted(reza.terminal.title(view.channel) for view in reza.terminal.views.values()) == [
                *("@sara", "general")
            ]


# -- doors


async def test_passwords_and_tokens(
    valkey_process: RedisProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "s" * 32
    env = {"REDIS_URL": valkey_process.url, "DATA_DIR": str(tmp_path), "AUTH_SECRET": secret, "REGISTRATION": "yes"}
    with PeykServer(env) as server:
        settings = ServerSettings(
            redis_url=valkey_process.url, data_dir=tmp_path, auth_secret=secret, registration="yes", _env_file=None
        )
        async with Node(settings, "tool") as node:
            await node.redis.flushall()
            await node.accounts.register("sara", "correct horse")
            token = node.doors.tokens.issue("omid", 60)
        with pytest.raises(Unauthorized, match="name or password"):
            await asyncio.to_thread(sign_in, server.url, "sara", "wrong")
        signed = await asyncio.to_thread(sign_in, server.url, "sara", "correct horse")
        async with Person(await remote(server, "sara", signed)) as sara, Person(await remote(server, "omid", token)):
            await sara.enter("/msg omid hello", "/name other")
            await sara.reads("] sara: hello")
            await sara.reads("! your name comes with your token; start again with another")
        monkeypatch.setenv("PEYK_TOKEN", token)
        monkeypatch.setenv("PEYK_URL", server.url)
        async with opened(ServerSettings(_env_file=None), "whatever", "tool") as source:
            assert source.username == "omid"


async def test_addresses_and_servers_that_are_none(valkey_process: RedisProcess) -> None:
    assert addresses("ws://h:5000") == ("ws://h:5000/connection/websocket", "http://h:5000")
    assert addresses("https://h/chat") == ("wss://h/chat", "https://h")
    assert addresses("h:5000")[0] == "ws://h:5000/connection/websocket"
    with pytest.raises(BadRequest, match="no server's address"):
        addresses("ftp://h")
    with pytest.raises(Unavailable, match="does not answer"):
        await Remote(f"ws://127.0.0.1:{free_port()}", "sara").start()
    with pytest.raises(Unavailable):
        await Remote(f"ws://127.0.0.1:{valkey_process.port}", "sara").start()
