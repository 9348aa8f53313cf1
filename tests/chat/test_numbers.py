"""Numbers are exact or refused by name, whichever door they come by: whole ones of 64 bits, and what a float holds."""

import json

import httpx2 as httpx
import pytest
from websockets.asyncio.client import connect

from tests.services import PeykServer

EXACT = {
    "9007199254740993": "9007199254740993",
    "-9223372036854775808": "-9223372036854775808",
    "9223372036854775807": "9223372036854775807",
    "0.1": "0.1",
    "0.10000000000000001": "0.1",
    "1.50": "1.5",
    "1e23": "1e23",
    "5e-324": "5e-324",
}
LOST = ["12345678901234567.89", "9007199254740993.0", "9007199254740.993", "1e-400", "3.141592653589793238"]
BEYOND = ["9223372036854775808", "-9223372036854775809", "1e400"]
PADDED = ["", "x" * 300]  # long messages are decoded another way
DOORS = ["socket", "message", "event", "batch"]


async def publish(door: str, data: str, server: PeykServer, http: httpx.AsyncClient) -> str:
    """What a door answers to data with that number; empty: it is stored."""
    if door == "socket":
        async with connect(server.ws_url, proxy=None) as socket:
            await socket.send('{"id":1,"connect":{"data":{"user":"sara"}}}')
            await socket.recv()
            await socket.send(f'{{"id":2,"publish":{{"channel":"numbers-socket","data":{data}}}}}')
            while "error" not in (reply := json.loads(await socket.recv())) and reply.get("id") != 2:
                pass
            return str(reply["error"]["message"]) if "error" in reply else ""
    path, body = "/api/channels/numbers-message/messages", f'{{"data":{data},"user":"sara"}}'
    if door != "message":
        path, body = "/api/events", f'{{"type":"t","channel":"numbers-{door}","payload":{data}}}'
        body = f"[{body}]" if door == "batch" else body
    reply = await http.post(path, content=body, headers={"content-type": "application/json"})
    return "" if reply.status_code in (201, 202) else str(reply.json()["error"]["message"])


@pytest.mark.parametrize("door", DOORS)
async def test_what_is_stored_is_exact_and_the_rest_is_refused_by_name(
    door: str, server: PeykServer, http: httpx.AsyncClient
) -> None:
    for pad in PADDED:
        for sent, stored in EXACT.items():
            assert await publish(door, f'{{"n":{sent},"pad":"{pad}"}}', server, http) == ""
            page = await http.get(f"/api/channels/numbers-{door}/messages?before=999999&limit=1")
            assert f'{{"n":{stored},"pad":"{pad}"}}' in page.text
        for lost in LOST:
            why = await publish(door, f'{{"n":[{lost}],"pad":"{pad}"}}', server, http)
            assert f"the number {lost}" in why and "send it as a string" in why
        for beyond in BEYOND:
            why = await publish(door, f'{{"n":{beyond},"pad":"{pad}"}}', server, http)
            assert "beyond 64 bits; send it as a string" in why or "out of range" in why
    assert await publish(door, '{"n":"12345678901234567.89"}', server, http) == ""
