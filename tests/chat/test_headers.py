"""What browsers are told, and what the page's own files must not do."""

import re
from pathlib import Path

import httpx2 as httpx
import pytest

from chat.headers import HEADERS, PAGE_POLICY
from tests.services import ROOT

WEB = sorted(p for p in (ROOT / "chat" / "web").iterdir() if p.suffix in (".js", ".html", ".css", ".svg"))
DANGEROUS = re.compile(
    r"\b(innerHTML|outerHTML|insertAdjacentHTML|srcdoc|document\.write(ln)?|eval|Function|createContextualFragment"
    r"|setHTML(Unsafe)?|parseFromString|importScripts|javascript:)\b|set(Timeout|Interval)\(\s*[\"'`]"
)
INLINE = re.compile(r"<script(?![^>]*\ssrc=)|<style|\son\w+\s*=|\sstyle\s*=|javascript:", re.IGNORECASE)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/web/app.js", 200),
        ("GET", "/web/icon.svg", 200),
        ("GET", "/health", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/api/channels", 200),
        ("GET", "/api/channels/never", 404),
        ("GET", "/nothing", 404),
        ("DELETE", "/api/channels", 405),
        ("POST", "/api/channels", 400),
    ],
)
async def test_every_answer_carries_the_security_headers(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    reply = await http.request(method, path)
    assert reply.status_code == status
    policy = PAGE_POLICY if path == "/" else HEADERS["content-security-policy"]
    for name, value in (HEADERS | {"content-security-policy": policy}).items():
        assert reply.headers.get_list(name) == [value], name
    asset = status == 200 and (path == "/" or path.startswith("/web/"))
    assert reply.headers.get_list("cache-control") == ["no-cache" if asset else "no-store"]


async def test_an_event_stream_carries_them_and_is_not_held_back(http: httpx.AsyncClient) -> None:
    await http.post("/api/channels/headers/messages", json={"text": "x"})
    accept = {"accept": "text/event-stream"}
    async with http.stream("GET", "/api/channels/headers/messages?after=0", headers=accept) as response:
        assert HEADERS.items() <= dict(response.headers).items()
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                break


def test_the_policy_allows_nothing_inline_and_nothing_foreign() -> None:
    rules = dict(rule.split(" ", 1) for rule in PAGE_POLICY.split("; "))
    assert not re.search(r"unsafe|data:|\*|https?:|blob:", PAGE_POLICY)
    assert rules["default-src"] == "'none'" == rules["object-src"] == rules["base-uri"] == rules["frame-ancestors"]
    assert rules["script-src"] == rules["connect-src"] == rules["style-src"] == "'self'"
    assert rules["require-trusted-types-for"] == "'script'"


@pytest.mark.parametrize("path", WEB, ids=lambda p: p.name)
def test_the_page_makes_no_markup_of_text(path: Path) -> None:
    text = path.read_text()
    assert not (found := DANGEROUS.search(text)), found
    assert path.suffix != ".html" or not (found := INLINE.search(text)), found


@pytest.mark.parametrize(
    "bad", ["x.innerHTML = a", "eval(a)", "document.write(a)", "new Function(a)", "setTimeout('a')"]
)
def test_the_search_can_fail(bad: str) -> None:
    assert DANGEROUS.search(bad)
    assert INLINE.search("<p onclick='a'>") and INLINE.search("<script>") and INLINE.search("<p style='a'>")
