"""Names whose letters are of several scripts: the natural ones are let in, those that look like another's are not."""

import unicodedata
from itertools import pairwise

import pytest

from chat.access import Access
from chat.auth import Identity
from chat.errors import BadRequest, PermissionDenied
from chat.lookalikes import SCRIPTS, chosen, looks_like_another
from chat.models import User, channel_id
from chat.node import Node
from tests.chat.test_sources import node

__all__ = ["node"]

NATURAL = [
    "sara",
    "سارا",
    "ｓａｒａ",
    "Иван",
    "Αθήνα",
    "علی۱",
    "sara2",
    "سارا-dev",
    "server-ها",
    "گروه_python",
    "team-日本語",
]
NATURAL += [
    "カラオケ東京",
    "k-팝",
    "한자漢字",
    "ㄅ漢",
    "गपशप-x",
    "चैट",
    "ไทย-chat",
    "café",
    "naïve",
    "guest-Иван",
    "ßen",
    "ქართული-x",
]
ALIKE = [
    "sаra",
    "ѕara",
    "pаypal",
    "gеneral",
    "Αlpha",
    "αdmin",
    "аlі",
    "Иванov",
    "sαra",
    "ΙΒΜ-x",
    "generaا",
    "hellՕ",
    "оne",
]
ALIKE += ["ყes", "ᎪᏢᏢle", "xⲟx", "иα", "сסс", "guest-sаra", "日本сара", "p\u0430ypal1"]


@pytest.mark.parametrize("name", NATURAL)
def test_names_of_one_script_or_of_scripts_that_go_together_are_for_everybody(name: str) -> None:
    assert chosen(name) == User.named(name)


@pytest.mark.parametrize("name", ALIKE, ids=ascii)
def test_names_of_mixed_scripts_that_look_like_another_are_for_nobody(name: str) -> None:
    assert looks_like_another(name)
    with pytest.raises(BadRequest, match="write it in one script"):
        chosen(name)


def test_every_letter_has_one_script() -> None:
    ranges = [part for parts in SCRIPTS.values() for part in parts.split()]
    codes = [range(int(part.split("-")[0], 16), int(part.split("-")[-1], 16) + 1) for part in ranges]
    places = sorted(codes, key=lambda code: code.start)
    assert all(before.stop <= after.start for before, after in pairwise(places))
    known = {code for part in codes for code in part}
    names = ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "ARMENIAN", "CHEROKEE", "CJK", "HANGUL", "THAI")
    for code in range(0x20000):
        letter = unicodedata.category(chr(code))[0] == "L"
        assert not letter or not unicodedata.name(chr(code), "").startswith(names) or code in known, hex(code)


async def test_people_make_no_channel_that_looks_like_another_and_join_what_a_program_made(node: Node) -> None:
    name = "gеneral"
    channel = channel_id(name)
    person = Access(node.doors, Identity(User.named("sara")))
    program = Access(node.doors, Identity(User.named("api"), program=True))
    for action in ("create", "subscribe", "publish"):
        with pytest.raises(PermissionDenied, match="write it in one script"):
            await node.allow(person, action, channel)
    await node.allow(program, "create", channel)
    await node.channels.create(name)
    await node.allow(person, "subscribe", channel)
    await node.allow(person, "publish", channel)
    with pytest.raises(BadRequest, match="write it in one script"):
        await node.doors.guest("sаra")
