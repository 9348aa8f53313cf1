"""Accounts: one name, one person; a password that is never stored or told; sessions that end when they are ended."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator

import httpx2 as httpx
import pytest
import redis
from websockets.asyncio.client import connect

from chat.accounts import ATTEMPTS
from chat.errors import Unauthorized
from chat.models import User
from chat.node import Node
from chat.settings import ServerSettings
from tests.chat.conftest import Talk
from tests.services import PeykServer, RedisProcess, run_app, until

PASSWORD = "a long password"
GONE = 3500, "this name has an account now"
SECRET = "a secret of thirty-two bytes or more"


@pytest.fixture
async def http(server: PeykServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=180) as client:
        yield client


async def register(http: httpx.AsyncClient, name: str, password: str = PASSWORD) -> httpx.Response:
    return await http.post("/api/accounts", json={"username": name, "password": password})


async def who(http: httpx.AsyncClient) -> str:
    return str((await http.get("/api/session")).json()["user"])


async def as_cookie(server: PeykServer, cookie: str) -> str:
    """Who the WebSocket takes a cookie for."""
    async with connect(server.ws_url, proxy=None, additional_headers={"cookie": f"peyk={cookie}"}) as socket:
        reply = await Talk(socket).ask(connect={})
        return str(reply["connect"]["data"]["user"]) if "connect" in reply else str(reply["error"]["code"])


async def test_register_sign_out_and_in_again(http: httpx.AsyncClient, server: PeykServer) -> None:
    made = await register(http, "Sara1")
    assert made.status_code == 201 and made.json()["user"] == "Sara1"
    assert "httponly" in made.headers["set-cookie"].lower() and "samesite=lax" in made.headers["set-cookie"].lower()
    cookie = http.cookies["peyk"]
    assert await who(http) == "Sara1" and await as_cookie(server, cookie) == "Sara1"

    assert (await http.delete("/api/session")).status_code == 204
    assert "peyk" not in http.cookies
    assert await who(http) == "anonymous"  # a guest again
    assert await as_cookie(server, cookie) == "101"  # and the token is not only forgotten

    wrong = await http.post("/api/session", json={"username": "sara1", "password": "not this one"})
    assert wrong.status_code == 401
    again = await http.post("/api/session", json={"username": "sara1", "password": PASSWORD})
    assert again.status_code == 201 and again.json()["user"] == "Sara1"


async def test_two_people_never_hold_one_name(http: httpx.AsyncClient, server: PeykServer) -> None:
    replies = await asyncio.gather(*(register(http, name) for name in ("reza2", "Reza2", "REZA2", "reza2")))
    assert sorted(reply.status_code for reply in replies) == [201, 409, 409, 409]
    await http.delete("/api/session")
    async with connect(server.ws_url, proxy=None) as socket:
        code, says = await Talk(socket).fail(connect={"data": {"user": "Reza2"}})
        assert code == 101 and "has an account" in says
    for method, path, body in (
        ("POST", "/api/channels/general/messages", {"text": "I am reza", "user": "reza2"}),
        ("PUT", "/api/channels/general/subscribers/reza2", None),
        ("DELETE", "/api/channels/general/subscribers/reza2", None),
    ):
        await http.post("/api/channels", json={"name": "general"})
        reply = await http.request(method, path, json=body)
        assert reply.status_code == 401, (method, reply.text, dict(http.cookies))


async def test_who_used_a_name_as_a_guest_goes_when_it_is_registered(
    http: httpx.AsyncClient, server: PeykServer, redis_of_module: RedisProcess
) -> None:
    """On every node: nobody speaks under an account's name but who signed in to it."""
    with PeykServer({"REDIS_URL": redis_of_module.url}) as other:
        async with contextlib.AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(connect(to.ws_url, proxy=None)) for to in (server, other, other)]
            for socket, name in zip(sockets, ("Mina", "mina", "minaa"), strict=True):
                assert "connect" in await Talk(socket).ask(connect={"data": {"user": name}})
            assert (await register(http, "mina")).status_code == 201
            async with asyncio.timeout(180):
                await asyncio.gather(*(socket.wait_closed() for socket in sockets[:2]))
            assert [(socket.close_code, socket.close_reason) for socket in sockets[:2]] == [GONE, GONE]
            assert "ping" in await Talk(sockets[2]).ask(ping={})
            assert await as_cookie(other, http.cookies["peyk"]) == "mina"


async def test_persian_names_in_two_spellings_are_one(http: httpx.AsyncClient) -> None:
    assert (await register(http, "علی")).status_code == 201
    assert (await register(http, "علي")).status_code == 409


@pytest.mark.parametrize(
    ("name", "password", "says"),
    [
        ("sara3", "short", "8 to 256 characters"),
        ("sara3", "x" * 257, "8 to 256 characters"),
        ("a b", PASSWORD, "a user name has"),
        ("guest-1", PASSWORD, "choose another name"),
        ("Anonymous", PASSWORD, "choose another name"),
        ("API", PASSWORD, "choose another name"),
    ],
)
async def test_what_cannot_be_registered(http: httpx.AsyncClient, name: str, password: str, says: str) -> None:
    reply = await register(http, name, password)
    assert reply.status_code == 400 and says in reply.json()["error"]["message"]


async def test_guessing_is_slow(http: httpx.AsyncClient) -> None:
    await register(http, "guessed")
    await http.delete("/api/session")
    guess = {"username": "guessed", "password": "not this one"}
    replies = [await http.post("/api/session", json=guess) for _ in range(ATTEMPTS + 1)]
    assert [reply.status_code for reply in replies] == [401] * ATTEMPTS + [429]
    right = await http.post("/api/session", json=guess | {"password": PASSWORD})
    assert right.status_code == 429
    nobody = {"username": "nobody-here", "password": "not this one"}
    assert [(await http.post("/api/session", json=nobody)).status_code for _ in range(2)] == [401, 401]


async def test_guessing_at_once_is_no_faster(http: httpx.AsyncClient) -> None:
    await register(http, "besieged")
    await http.delete("/api/session")
    right = {"username": "besieged", "password": PASSWORD}
    for _ in range(ATTEMPTS + 1):  # these are no guesses
        assert (await http.post("/api/session", json=right)).status_code == 201
    guess = right | {"password": "not this one"}
    replies = await asyncio.gather(*(http.post("/api/session", json=guess) for _ in range(4 * ATTEMPTS)))
    assert sorted(reply.status_code for reply in replies) == [401] * ATTEMPTS + [429] * (3 * ATTEMPTS)


async def test_whoever_guesses_elsewhere_does_not_lock_out_the_owner(
    http: httpx.AsyncClient, redis_of_module: RedisProcess
) -> None:
    """Known by its browser's mark, or by its address; a guess from there counts for that place alone."""
    env = {"REDIS_URL": redis_of_module.url, "TRUSTED_PROXIES": "127.0.0.1", "API_KEY": "0123456789abcdef"}
    with PeykServer(env) as public:

        def at(address: str, cookies: dict[str, str] | None = None) -> httpx.AsyncClient:
            headers = {"x-forwarded-for": address}
            return httpx.AsyncClient(
                base_url=public.url, trust_env=False, timeout=180, headers=headers, cookies=cookies
            )

        right = {"username": "owner10", "password": PASSWORD}
        wrong = right | {"password": "not this one"}
        async with at("10.0.0.1") as home, at("10.0.0.2") as thief, at("10.0.0.1") as neighbour:
            assert (await home.post("/api/accounts", json=right)).status_code == 201
            marks = {"peyk-known": home.cookies["peyk-known"]}
            replies = [await thief.post("/api/session", json=wrong) for _ in range(ATTEMPTS + 1)]
            assert [reply.status_code for reply in replies] == [401] * ATTEMPTS + [429]
            assert int(replies[-1].headers["retry-after"]) > 0
            assert (await thief.post("/api/session", json=right)).status_code == 429
            assert (await neighbour.post("/api/session", json=right)).status_code == 201  # the address is known
            neighbour.cookies.clear()
            replies = [await neighbour.post("/api/session", json=wrong) for _ in range(ATTEMPTS + 1)]
            assert [reply.status_code for reply in replies] == [401] * ATTEMPTS + [429]
            async with at("10.0.0.3", marks) as travelling, at("10.0.0.3") as stranger:
                assert (await travelling.post("/api/session", json=right)).status_code == 201
                assert (await stranger.post("/api/session", json=right)).status_code == 201  # known by now
            forged = {"peyk-known": marks["peyk-known"][:-1] + "x"}
            other = {"username": "other10", "password": PASSWORD}
            assert (await home.post("/api/accounts", json=other)).status_code == 201
            for cookies in (forged, {"peyk-known": home.cookies["peyk-known"]}, {"peyk-known": "."}):
                async with at("10.0.0.4", cookies) as pretender:
                    assert (await pretender.post("/api/session", json=right)).status_code == 429


async def test_an_address_tries_so_often_and_makes_so_many(redis_of_module: RedisProcess) -> None:
    """Names at random leave nothing, and whoever is known at another address notices nothing."""
    env = {"REDIS_URL": redis_of_module.url, "TRUSTED_PROXIES": "127.0.0.1", "API_KEY": "0123456789abcdef"}
    limits = {"ADDRESS_SIGN_INS": "5", "ADDRESS_ACCOUNTS": "2", "GUESTS": "yes"}
    with (
        PeykServer(env | limits) as public,
        redis.Redis(port=redis_of_module.port, decode_responses=True) as client,
    ):
        async with httpx.AsyncClient(base_url=public.url, trust_env=False, timeout=180) as http:

            async def post(path: str, name: str, address: str, password: str = PASSWORD) -> int:
                body = {"username": name, "password": password}
                reply = await http.post(path, json=body, headers={"x-forwarded-for": address})
                http.cookies.clear()
                assert reply.status_code != 429 or int(reply.headers["retry-after"]) > 0, reply.text
                return reply.status_code

            made = [await post("/api/accounts", f"maker-{n}", "10.1.0.1") for n in range(3)]
            assert made == [201, 201, 429]
            assert await post("/api/accounts", "maker-0", "10.1.0.2") == 409  # taken: not counted
            assert await post("/api/accounts", "maker-9", "10.1.0.2", "short") == 400
            assert [await post("/api/accounts", f"maker2-{n}", "10.1.0.2") for n in range(3)] == [201, 201, 429]
            assert await post("/api/accounts", "maker6", "2001:db8::1") == 201
            assert await post("/api/accounts", "maker7", "2001:db8::2") == 201
            assert await post("/api/accounts", "maker8", "2001:db8::3") == 429  # one network of 64 bits

            tried = [await post("/api/session", f"random-{n}", "10.1.0.9") for n in range(7)]
            assert tried == [401] * 5 + [429] * 2
            assert await post("/api/session", "maker-1", "10.1.0.1") == 201
            theirs = {"username": "maker-0", "password": PASSWORD}
            headers = {"x-forwarded-for": "10.1.0.1"}
            mark = (await http.post("/api/session", json=theirs, headers=headers)).cookies["peyk-known"]
            http.cookies.clear()
            wrong = [await post("/api/session", "maker-0", "10.1.0.1", "not this one") for _ in range(8)]
            assert wrong[-1] == 429  # a neighbour behind the same address
            marked = headers | {"cookie": f"peyk-known={mark}"}
            assert (await http.post("/api/session", json=theirs, headers=marked)).status_code == 201
            keys = [key for key in client.scan_iter("*random-*", 1000)]
            assert all(0 < client.ttl(key) <= 60 for key in keys) and len(keys) == 5, keys


async def test_there_are_so_many_accounts(redis_of_module: RedisProcess) -> None:
    with RedisProcess("redis") as fresh, PeykServer({"REDIS_URL": fresh.url, "ACCOUNT_LIMIT": "2"}) as small:
        async with httpx.AsyncClient(base_url=small.url, trust_env=False, timeout=180) as http:
            replies = [await register(http, f"person{n}") for n in range(3)]
            assert [reply.status_code for reply in replies] == [201, 201, 429]
            assert "ACCOUNT_LIMIT" in replies[2].text
            assert (
                await http.post("/api/session", json={"username": "person2", "password": PASSWORD})
            ).status_code == 401


async def test_a_flood_of_names_leaves_the_real_sign_in_room(http: httpx.AsyncClient, server: PeykServer) -> None:
    """Twenty connections try names at random, more than may wait; whoever is known has room all the same."""
    await register(http, "besieged2")
    flooding, ended = True, 0

    async def flood(number: int) -> None:
        nonlocal ended
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=180) as client:
            while flooding:
                body = {"username": f"random-{number}-{ended}", "password": PASSWORD}
                reply = await client.post("/api/session", json=body)
                assert reply.status_code in (401, 429), reply.text
                ended += 1

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(flood(number))
        await until(lambda: ended > 20)
        for _ in range(5):
            before = ended
            reply = await http.post("/api/session", json={"username": "besieged2", "password": PASSWORD})
            assert reply.status_code == 201, reply.text
            await until(lambda: ended > before)  # noqa: B023
        flooding = False


async def test_a_new_password_ends_the_other_sessions(http: httpx.AsyncClient, server: PeykServer) -> None:
    await register(http, "changing")
    other = http.cookies["peyk"]
    new = "another long password"
    wrong = await http.put("/api/accounts/password", json={"old": "not this one", "new": new})
    assert wrong.status_code == 401
    done = await http.put("/api/accounts/password", json={"old": PASSWORD, "new": new})
    assert done.status_code == 201 and await who(http) == "changing"
    assert await as_cookie(server, other) == "101"
    assert await as_cookie(server, http.cookies["peyk"]) == "changing"
    old = await http.post("/api/session", json={"username": "changing", "password": PASSWORD})
    assert old.status_code == 401


async def test_who_lost_their_password_is_given_another(
    http: httpx.AsyncClient, server: PeykServer, redis_of_module: RedisProcess
) -> None:
    """Also where somebody keeps guessing at the name; whoever came in with the old one goes."""
    await register(http, "forgetful")
    lost = http.cookies["peyk"]
    guess = {"username": "forgetful", "password": "not this one"}
    while (await http.post("/api/session", json=guess)).status_code != 429:
        pass

    async def reset(name: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(run_app, "password", name, REDIS_URL=redis_of_module.url)

    done = await reset("Forgetful")
    assert done.returncode == 0, done.stderr
    new = {"username": "forgetful", "password": done.stdout.strip()}
    await until(lambda: _comes_in_with(http, server, new))
    assert await as_cookie(server, lost) == "101"
    assert (await http.post("/api/session", json=new | {"password": PASSWORD})).status_code == 401
    unknown = await reset("nobody-here")
    assert unknown.returncode == 1 and unknown.stderr == "peyk: nobody registered the name nobody-here\n"


async def _comes_in_with(http: httpx.AsyncClient, server: PeykServer, account: dict[str, str]) -> bool:
    """Not in the very second of the revocation."""
    reply = await http.post("/api/session", json=account)
    assert reply.status_code == 201 or "revoked" in reply.text, reply.text
    return reply.status_code == 201 and await as_cookie(server, http.cookies["peyk"]) == "forgetful"


async def test_a_password_that_is_replaced_while_it_is_looked_at_opens_nothing(
    redis_of_module: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing takes its time, and more where many sign in."""
    async with Node(ServerSettings(redis_url=redis_of_module.url, _env_file=None), "tool") as node:
        accounts, user = node.accounts, User.named("overtaken")
        await accounts.register(user.username, PASSWORD)
        matches, given = accounts._matches, [PASSWORD]

        async def overtaken(hashed: str, password: str, known: bool) -> bool:
            matched = await matches(hashed, password, known)
            given.append(await accounts.reset_password(user.username))
            return matched

        monkeypatch.setattr(accounts, "_matches", overtaken)
        with pytest.raises(Unauthorized):
            await accounts.sign_in(user.username, given[-1])
        with pytest.raises(Unauthorized):
            await accounts.change_password(user, given[-1], PASSWORD)
        monkeypatch.undo()
        with pytest.raises(Unauthorized):
            await accounts.sign_in(user.username, PASSWORD)
        assert await accounts.sign_in(user.username, given[-1])


async def test_passwords_are_not_kept_and_not_logged(
    http: httpx.AsyncClient, server: PeykServer, redis_of_module: RedisProcess
) -> None:
    secret = "the very secret one"
    await register(http, "secretive", secret)
    await http.post("/api/session", json={"username": "secretive", "password": secret + "!"})
    assert secret not in server.log.read_text()
    with redis.Redis(port=redis_of_module.port, decode_responses=True) as client:
        assert client.hget("account:secretive", "password").startswith("$argon2id$")


@pytest.mark.parametrize(
    ("env", "status"),
    [
        ({"REGISTRATION": "no"}, 403),
        ({"AUTH_SECRET": SECRET}, 403),  # names come with tokens: whoever registered one would be its holder
        ({"AUTH_SECRET": SECRET, "REGISTRATION": "yes"}, 201),
        ({"API_KEY": "0123456789abcdef"}, 201),
    ],
    ids=["no", "tokens", "tokens and yes", "programs only"],
)
async def test_nobody_registers_where_others_name_the_people(
    redis_of_module: RedisProcess, env: dict[str, str], status: int
) -> None:
    with PeykServer({"REDIS_URL": redis_of_module.url, **env}) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=180) as client:
            reply = await register(client, "-".join(env))
            assert reply.status_code == status, reply.text
            assert status == 201 or "REGISTRATION=yes" in reply.json()["error"]["message"]


async def test_guests_beside_named_users_are_called_guests(redis_of_module: RedisProcess) -> None:
    env = {"REDIS_URL": redis_of_module.url, "AUTH_SECRET": SECRET}
    with PeykServer(env) as named:
        async with connect(named.ws_url, proxy=None) as socket:
            reply = await Talk(socket).ask(connect={"data": {"user": "sara"}})
            assert reply["connect"]["data"] == {"user": "guest-sara", "guest": True}
