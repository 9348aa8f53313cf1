"""The page's files: small, compressed, asked for again only by their tags, and all that the page loads."""

import gzip
import re
from pathlib import Path

import httpx2 as httpx
import pytest

from chat.assets import WEB, Assets

BUDGET = 60 * 1024  # bytes a browser loads, compressed, for the page and everything it needs


def test_the_page_is_light() -> None:
    assert 0 < Assets().weight < BUDGET


def test_the_page_names_every_file_it_needs_so_that_all_are_loaded_at_once() -> None:
    page = (WEB / "index.html").read_text()
    named = set(re.findall(r'(?:href|src)="web/([\w.]+)"', page))
    assert named == {path.name for path in WEB.iterdir()} - {"index.html"}
    assert not re.search(r"(src|href)=.?(https?:)?//|@import|url\(", page + (WEB / "chat.css").read_text())


FILES = {path.name: path.read_bytes() for path in sorted(WEB.iterdir())}
KINDS = {"js": "text/javascript", "css": "text/css", "html": "text/html", "svg": "image/svg+xml"}


@pytest.mark.parametrize("name", FILES)
async def test_a_file_comes_packed_plain_or_not_again(http: httpx.AsyncClient, name: str) -> None:
    url = "/" if name == "index.html" else f"/web/{name}"
    for coding in ("gzip", "identity"):
        reply = await http.get(url, headers={"accept-encoding": coding})
        assert reply.status_code == 200 and reply.content == FILES[name]
        assert reply.headers.get("content-encoding", "identity") == coding
        assert reply.headers["vary"] == "accept-encoding" and reply.headers["cache-control"] == "no-cache"
    assert reply.headers["content-type"].startswith(KINDS[name.rpartition(".")[2]])
    again = await http.get(url, headers={"if-none-match": reply.headers["etag"]})
    assert again.status_code == 304 and again.content == b""


async def test_what_is_no_file_of_the_page_is_not_found(http: httpx.AsyncClient) -> None:
    for name in ("index.html", "nothing.js", "..%2Fserver.py", "%2e%2e%2fserver.py", ""):
        assert (await http.get(f"/web/{name}")).status_code == 404, name
    assert (await http.head("/")).status_code == 200


def test_an_upgrade_changes_the_tag(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("old")
    old = Assets(tmp_path)._files["a.js"]
    (tmp_path / "a.js").write_text("new")
    new = Assets(tmp_path)._files["a.js"]
    assert old.headers["etag"] != new.headers["etag"] and gzip.decompress(new.packed) == b"new"
