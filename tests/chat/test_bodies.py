"""What a request's body may be: how it is spelled, packed and named, for every JSON route alike."""

import codecs
import gzip
import json
import subprocess
import zlib
from typing import Any

import httpx2 as httpx
import pytest

from tests.services import PeykServer

JSON = "application/json"
MESSAGES = "/api/channels/bodies/messages"
EVENT = {"type": "x", "channel": "bodies", "payload": 1}
MESSAGE = b'{"text":"hi"}'


async def post(http: httpx.AsyncClient, path: str, body: bytes, kind: str = JSON, packing: str = "") -> httpx.Response:
    headers = {"content-type": kind} | ({"content-encoding": packing} if packing else {})
    return await http.post(path, content=body, headers=headers)


ROUTES: list[tuple[str, Any, int]] = [
    (MESSAGES, {"text": "hi"}, 201),
    ("/api/events", EVENT, 202),
    ("/api/events", [EVENT, EVENT], 202),
    ("/api/rpc/configs", None, 200),
    ("/api/session", {"token": "x"}, 401),
]


@pytest.mark.parametrize(("path", "value", "status"), ROUTES)
@pytest.mark.parametrize(
    ("kind", "mark", "packing"),
    [
        (JSON, b"", ""),
        (JSON, codecs.BOM_UTF8, ""),
        (JSON, codecs.BOM_UTF8, "gzip"),
        (JSON, b"", "GZIP"),
        (JSON, b"", "identity"),
        ("application/vnd.api+json", b"", ""),
        ("Application/Problem+JSON; charset=utf-8", b"", "x-gzip"),
        ('application/json;charset="UTF-8"', b"", ""),
        ("text/json", b"", ""),
    ],
)
async def test_json_in_every_wrapping(
    http: httpx.AsyncClient, path: str, value: Any, status: int, kind: str, mark: bytes, packing: str
) -> None:
    body = mark + json.dumps(value).encode()
    reply = await post(http, path, gzip.compress(body) if "gzip" in packing.lower() else body, kind, packing)
    assert reply.status_code == status, reply.text


@pytest.mark.parametrize(("path", "value", "status"), ROUTES)
@pytest.mark.parametrize(
    ("kind", "packing", "says"),
    [
        ("application/x-www-form-urlencoded", "", "curl: -H 'content-type: application/json'"),
        ("application/xml", "", "content-type: application/json"),
        ("multipart/form-data; boundary=x", "", "content-type: application/json"),
        ("application/jsonp", "", "content-type: application/json"),
        ("image/svg+xml", "", "content-type: application/json"),
        ("application/json; charset=utf-16", "", "charset=utf-8"),
        (JSON, "br", "not with br"),
        (JSON, "deflate", "not with deflate"),
        (JSON, "gzip, gzip", "not with gzip, gzip"),
        (JSON, "aws-chunked", "not with aws-chunked"),
    ],
)
async def test_what_is_not_taken_is_told_what_is(
    http: httpx.AsyncClient, path: str, value: Any, status: int, kind: str, packing: str, says: str
) -> None:
    reply = await post(http, path, json.dumps(value).encode(), kind, packing)
    assert reply.status_code == 415 and says in reply.json()["error"]["message"], reply.text


async def test_a_text_is_a_message(http: httpx.AsyncClient) -> None:
    texts = ["سلام", "two\nlines", '{"not":"json"}', "tab\there", "x" * 60_000]
    for text in texts:
        for body in (text.encode(), text.replace("\n", "\r\n").encode() + b"\n", codecs.BOM_UTF8 + text.encode()):
            reply = await post(http, "/api/channels/texts/messages", body, "text/plain; charset=utf-8")
            assert reply.status_code == 201, reply.text
        packed = await post(http, "/api/channels/texts/messages", gzip.compress(text.encode()), "text/plain", "gzip")
        assert packed.status_code == 201
    page = (await http.get("/api/channels/texts/messages?limit=1000")).json()["publications"]
    assert [publication["data"] for publication in page] == [{"text": text} for text in texts for _ in range(4)]
    for body, status in ((b"caf\xe9", 400), (b"a\x1b[31m", 400), (b"x" * 70_000, 413), (b"x" * 200_000, 413)):
        assert (await post(http, "/api/channels/texts/messages", body, "text/plain")).status_code == status
    assert (await post(http, "/api/events", b"hi", "text/plain")).status_code == 415  # an event has a type


BOMB = gzip.compress(b" " * 50_000_000)


@pytest.mark.parametrize("path", [MESSAGES, "/api/events", "/api/rpc/configs"])
@pytest.mark.parametrize(
    ("packed", "status"),
    [
        (BOMB, 413),
        (gzip.compress(BOMB), 400),
        (gzip.compress(b"") * 5000, 400),
        (gzip.compress(MESSAGE)[:-4], 400),
        (gzip.compress(MESSAGE) + b"more", 400),
        (zlib.compress(MESSAGE), 400),
        (MESSAGE, 400),
        (b"", 400),
    ],
    ids=[
        "a bomb",
        "one in another",
        "members of nothing",
        "cut off",
        "more behind it",
        "deflate",
        "not packed",
        "nothing",
    ],
)
async def test_gzip_is_unpacked_within_the_limit(
    http: httpx.AsyncClient, path: str, packed: bytes, status: int
) -> None:
    reply = await post(http, path, packed, packing="gzip")
    assert reply.status_code == status or (not packed and "/rpc/" in path), reply.text  # a call needs no body


async def test_gzip_of_several_members_is_one_body(http: httpx.AsyncClient) -> None:
    body = gzip.compress(MESSAGE[:5]) + gzip.compress(MESSAGE[5:])
    assert (await post(http, MESSAGES, body, packing="gzip")).status_code == 201
    lines = b"\n".join(json.dumps(EVENT).encode() for _ in range(1000))
    assert (await post(http, "/api/events", gzip.compress(lines), "application/x-ndjson", "gzip")).status_code == 202


@pytest.mark.parametrize(
    ("body", "kind"), [(b"[]", JSON), (b"", "application/x-ndjson"), (b"\n \n", "application/x-ndjson")]
)
async def test_a_batch_of_nothing_means_nothing(http: httpx.AsyncClient, body: bytes, kind: str) -> None:
    reply = await post(http, "/api/events", body, kind)
    assert reply.status_code == 422 and "1 to 1000 events" in reply.text


def test_curl_is_told_which_header_to_add(server: PeykServer) -> None:
    def curl(*words: str) -> str:
        command = ["curl", "-sS", "--noproxy", "*", *words, server.url + MESSAGES]
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout

    assert "-H 'content-type: application/json'" in curl("-d", '{"text":"hi"}')
    assert '"offset"' in curl("-d", '{"text":"hi"}', "-H", "content-type: application/json")
    assert '"offset"' in curl("-d", "hi", "-H", "content-type: text/plain")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/channels/"),
        ("POST", "/api/channels/slashes/messages/"),
        ("GET", "/api/channels/slashes/messages/?after=0"),
        ("GET", "/api/channels/slashes/"),
        ("PUT", "/api/channels/slashes/subscribers/sara/"),
        ("GET", "/api/channels/slashes/subscribers/"),
        ("POST", "/api/events/"),
        ("POST", "/api/rpc/configs/"),
        ("GET", "/health/"),
        ("GET", "/ready/"),
        ("GET", "/metrics/"),
        ("GET", "/openapi.json/"),
    ],
)
async def test_a_slash_at_the_end_makes_no_difference(http: httpx.AsyncClient, method: str, path: str) -> None:
    await http.post("/api/channels/slashes/messages", json={"text": "x"})
    body = EVENT if "events" in path else {"text": "x"}
    reply = await http.request(method, path, json=body if method == "POST" else None, follow_redirects=False)
    assert 200 <= reply.status_code < 300, reply.text


async def test_what_is_not_there_is_not_there_with_a_slash(http: httpx.AsyncClient) -> None:
    for path in ("/nothing/", "/web/app.js/", "/api/channels//", "/api/channels/slashes/messages//"):
        assert (await http.get(path)).status_code == 404, path
