"""The screen, driven as by a person, on a real Redis: what it looks like, what keys do, what is unread."""

import asyncio
import json
import re
from functools import partial

import pytest
from textual import events

from chat.node import Node
from chat.plain import width
from tests.chat.screens import Seen, fill, impatience, node, screen_of
from tests.services import until

__all__ = ["impatience", "node"]


async def say(node: Node, channel: str, text: str, user: str = "babak") -> None:
    await node.producer.publish(channel, json.dumps({"text": text}).encode(), user=user)


async def test_five_parts_in_the_specified_colours(node: Node) -> None:
    async with screen_of(node, "sara") as seen:
        await seen.enter("hello")
        await seen.sees("sara: hello")
        await seen.sees("all read")
        rows = seen.rows()
        assert rows[0].strip().startswith("Peyk 1.0") and "sara" in rows[0]
        assert rows[1].startswith(" Channels") and rows[2].startswith(" › general")
        assert rows[28].startswith(" > write a message…")
        assert rows[29].strip().startswith("general · subscribed: yes · connected")
        backs = {y: seen.background(x, y) for x, y in ((1, 0), (1, 5), (50, 5), (1, 28), (1, 29))}
        assert (backs[0], backs[28], backs[29]) == ("#333333", "#999999", "#666666")
        assert (seen.background(1, 6), seen.background(50, 6)) == ("#666666", "#cccccc")


async def test_two_people_and_what_is_unread(node: Node) -> None:
    async with screen_of(node, "sara") as sara, screen_of(node, "babak") as babak:
        await babak.enter("/join other")
        await babak.sees("* joined other")
        await sara.enter("one")
        await sara.enter("two, @babak")
        await babak.sees("@2")
        assert "2 unread" in babak.rows()[-1]
        async with screen_of(node, "babak", "third") as second:  # another terminal of the same person
            await second.sees("@2")
            await babak.press("alt+a")
            await babak.sees("sara: two, @babak")
            await babak.sees("all read")
            await second.sees("all read")


async def test_the_new_line_stands_where_one_stopped_reading(node: Node) -> None:
    await fill(node, "general", 2)
    async with screen_of(node, "sara") as seen:
        await seen.sees("the last")
        await seen.enter("/join other")
        await seen.sees("* joined other")
        await say(node, "general", "unseen")
        await seen.sees("1 unread")
        await seen.press("alt+up")
        await seen.sees("unseen")
        log = seen.log()
        assert log.index(next(row for row in log if row.startswith("─") and "new" in row)) == len(log) - 2
        await seen.sees("all read")


async def test_older_messages_load_without_a_jump(node: Node) -> None:
    await fill(node, "general", 350)
    async with screen_of(node, "sara") as seen:

        def messages() -> list[str]:
            return [row for row in seen.log() if "message" in row]

        await seen.sees("the last")
        reached = False
        for _ in range(40):
            before = messages()
            loaded = len(seen.app.terminal.transcript.entries)
            seen.app.log_view.scroll(-10)
            top = seen.app.log_view
            await until(lambda: not seen.app.terminal.transcript.loading)
            await seen.pilot.pause()
            after = messages()
            if loaded != len(seen.app.terminal.transcript.entries):
                reached = True
            common = [row for row in before if row in after]
            assert common == before[: len(common)] == after[-len(common) :], "what was seen moved down by rows"
            assert len(common) >= len(before) - 10 > 10, "nothing jumped"
            if any("begins here" in row for row in seen.log()):
                break
            assert top.at_bottom is False
        assert reached and any("message 1" in row for row in seen.log())
        await say(node, "general", "meanwhile")
        await until(lambda: seen.app.terminal.current is not None and seen.app.terminal.current.unread == 1)
        assert any("message 1" in row for row in seen.log()), "what comes does not move who reads above"
        await seen.press("escape")
        await seen.sees("meanwhile")
        await seen.sees("all read")


def begins_at(seen: Seen, column: int) -> bool:
    return seen.app.log_view.region.x == column


async def test_a_resize_keeps_what_one_reads(node: Node) -> None:
    await fill(node, "general", 150, text="message {} " + "long " * 20)
    async with screen_of(node, "sara") as seen:
        await seen.sees("the last")
        for size in ((60, 15), (140, 40), (45, 20), (80, 24)):
            await seen.pilot.resize_terminal(*size)
            await seen.sees("the last")
            left = 0 if size[0] < 50 else 17 if size[0] < 80 else 24  # columns of the channel list
            await until(partial(begins_at, seen, left))
            assert len(seen.rows()) == size[1] and all(len(row) == size[0] for row in seen.rows())
        seen.app.log_view.scroll(-60)
        await seen.pilot.pause()
        while "message" not in seen.log()[0]:
            seen.app.log_view.scroll(-1)
            await seen.pilot.pause()
        first = seen.log()[0].split(" long")[0]
        for size in ((61, 20), (120, 30), (60, 15)):
            await seen.pilot.resize_terminal(*size)
            await until(lambda: seen.log()[0].startswith(first), 10, first)


async def test_completion_history_and_several_lines(node: Node) -> None:
    await node.channels.ensure("برنامه‌نویسی", "")
    async with screen_of(node, "sara") as sara, screen_of(node, "سامان") as saman:
        await saman.enter("سلام")
        await sara.sees("سلام")
        composer = sara.app.composer
        for typed, completed in (
            ("/jo", "/join "),
            ("/join برنا", "/join برنامه‌نویسی"),
            ("/msg سا", "/msg سامان "),
            ("hello سا", "hello @سامان "),
            ("hello @", "hello @سامان "),
            ("/zzz", "/zzz"),
            ("plain", "plain"),
        ):
            composer.put(typed)
            await sara.press("tab")
            assert composer.text == completed
        composer.put("/h")
        await sara.press("tab")
        assert composer.text == "/help " and "/help  /history" in sara.rows()[-1]
        await sara.press("tab")
        assert composer.text == "/history "
        await sara.press("shift+tab")
        assert composer.text == "/help "
        composer.put("first")
        await sara.press("enter", *"second", "ctrl+j", *"line", "enter")
        await sara.sees("line")
        assert [row for row in sara.log() if "second" in row or row == "line"][1] == "line"
        await sara.press(*"draft", "up")
        assert composer.text == "second\nline"
        await sara.press("up", "up")
        assert composer.text == "first"
        await sara.press("down", "down")
        assert composer.text == "draft"
        composer.put("")
        sara.app.post_message(events.Paste("پیش\r\nنویس"))
        await until(lambda: composer.text)
        await sara.pilot.pause()
        assert composer.text == "پیش\nنویس", "once"
        composer.put("می")
        composer.post_message(events.Key("zero_width_non_joiner", "\u200c"))  # Pilot has no name for it
        await until(lambda: composer.text == "می\u200c")


async def test_what_others_write_is_only_text(node: Node) -> None:
    async with screen_of(node, "sara") as seen:
        await say(node, "general", "[b]bold[/b] [@click=app.bell]x[/] [/b] $log {x}")
        await say(node, "general", "日本 👩\u200d💻 ❤\ufe0f end")
        await seen.sees("[b]bold[/b] [@click=app.bell]x[/] [/b] $log {x}")
        await seen.sees("日本 👩💻 ❤ end")
        await node.channels.update("general", "[red]topic[/red]")
        await seen.enter("/topic")
        await seen.sees("* general: [red]topic[/red]")
        assert "[red]topic[/red]" in seen.rows()[0]


async def test_in_persian(node: Node) -> None:
    async with screen_of(node, "سارا", "عمومی", language="fa") as seen:
        await seen.enter("سلام")
        await seen.sees("سارا: سلام")
        rows = seen.rows()
        assert "پیک ۱٫۰" in rows[0] and "کانال‌ها" in rows[1] and "عضو: بله · متصل" in rows[-1]
        assert any("امروز" in row or "دیروز" in row for row in seen.log())  # at midnight
        assert any(re.match("\\[[۰-۲][۰-۹]:[۰-۵][۰-۹]\\] سارا: سلام", row) for row in seen.log())
        await seen.enter("/join a b")
        await seen.sees("! نام کانال ۱ تا ۶۴ حرف")


@pytest.mark.parametrize("size", [(120, 30), (100, 30), (60, 15), (40, 12)])
async def test_the_longest_name_leaves_room_for_what_it_says(node: Node, size: tuple[int, int]) -> None:
    name = "n" * 64
    async with screen_of(node, name, size=size) as seen:
        await say(node, "general", "first of all", "山" * 42)
        await say(node, "general", "last", "babak")
        await seen.sees("babak: last")
        await seen.enter("own words")
        for word in ("first", "all", "own", "words"):
            await seen.sees(word)
        await until(lambda: not seen.app.terminal.unsent)
        assert all(width(row) == size[0] for row in seen.rows())


async def test_what_cannot_be_drawn_does_not_end_the_drawing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    async with screen_of(node, "sara") as seen:
        tries = []

        def fail() -> None:
            tries.append(1)
            raise IndexError("such a message")

        with monkeypatch.context() as broken:
            broken.setattr(seen.app.log_view, "refresh_rows", fail)
            await say(node, "general", "one")
            await until(lambda: tries)
        await say(node, "general", "two")
        await seen.sees("babak: two")


@pytest.mark.parametrize(
    ("keys", "code"),
    [(["ctrl+d"], 0), (["ctrl+q"], 0), (["ctrl+c", "ctrl+c"], 130), (["a", "ctrl+c", "ctrl+c", "ctrl+c"], 130)],
)
async def test_ways_out(node: Node, keys: list[str], code: int) -> None:
    async with screen_of(node, "sara") as seen:
        await seen.press(*keys[:-1])
        assert seen.app.return_code is None and seen.app.composer.text == ""
        await seen.press(keys[-1])
        await until(lambda: seen.app.return_code is not None)
        assert seen.app.return_code == code


async def test_themes_and_clicks(node: Node) -> None:
    await node.channels.ensure("other", "")
    async with screen_of(node, "sara") as seen:
        await seen.enter("/theme dark")
        await until(lambda: seen.background(50, 20) == "#16171b")
        await seen.enter("/theme pink")
        await seen.sees("! themes: peyk, dark, contrast")
        y = next(y for y, row in enumerate(seen.rows()) if row.strip() == "other" or row.startswith("   other"))
        await seen.pilot.click("#channels", offset=(4, y - 1))
        await seen.sees("* joined other")


async def test_drafts_stay_with_their_channel(node: Node) -> None:
    async with screen_of(node, "sara") as seen:
        await seen.enter("/join other")
        await seen.sees("* joined other")
        await seen.press(*"draft", "alt+up")
        await seen.sees(" › general")
        assert seen.app.composer.text == ""
        await seen.press("alt+down")
        await seen.sees(" › other")
        assert seen.app.composer.text == "draft"
        await seen.press("alt+up")
        await seen.sees(" › general")
        await seen.enter("/join other")
        await seen.sees(" › other")
        assert seen.app.composer.text == "draft", "also for who comes back by name"
        await seen.press("alt+up")
        await seen.sees(" › general")
        await seen.press("alt+down")
        await seen.sees(" › other")
        assert seen.app.composer.text == "draft"


async def test_a_draft_waits_while_one_types_ahead(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.channels.ensure("third", "")
    async with screen_of(node, "sara") as seen:
        composer = seen.app.composer
        await seen.press(*"draft")
        y = next(y for y, row in enumerate(seen.rows()) if row.startswith("   third"))
        await seen.pilot.click("#channels", offset=(4, y - 1))
        await seen.sees("* joined third")
        assert composer.text == ""
        goes_on = asyncio.Event()

        async def join(name: str) -> None:
            await goes_on.wait()
            await seen.app.terminal.show(seen.app.terminal.views[name])

        monkeypatch.setattr(seen.app.terminal, "join", join)
        await seen.enter("/join general")
        await seen.press(*"ahead")
        goes_on.set()
        await seen.sees(" › general")
        assert composer.text == "ahead"
        await seen.press("enter")
        await seen.sees("sara: ahead")
        await seen.press("alt+down")
        await seen.sees(" › third")
        await seen.press("alt+up")
        await seen.sees(" › general")
        assert composer.text == "draft"
