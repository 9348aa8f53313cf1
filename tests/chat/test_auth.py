"""Tokens and API keys, without a server: what is accepted is exactly what was signed, for whom and for what."""

import base64
import hashlib
import hmac
import json
import secrets
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from app import parser
from chat.auth import ACTIONS, ApiKeys, Identity, Policy, Tokens, check
from chat.doors import check_open
from chat.errors import BadRequest, PermissionDenied, TokenExpired, Unauthorized
from chat.models import User
from chat.settings import ServerSettings
from redis_config import ConfigError

SECRET = "a secret of thirty-two bytes or more"
SARA = User.named("sara")
READ = {"subscribe", "history", "presence"}
WRITE = READ | {"publish"}


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def signed(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **headers: str) -> str:
    return jwt.encode({"sub": "Sara", **claims}, key, algorithm=algorithm, headers=headers)


def test_what_was_issued_is_read_back() -> None:
    tokens = Tokens(SECRET)
    identity = tokens.identify(tokens.issue("Sara", 60, ["News.*", "عمومي"], ["publish"]))
    assert identity.user == User("sara", "Sara") and not identity.guest
    assert identity.channels == ("news.*", "عمومی") and identity.caps == frozenset(["publish"])
    assert 55 <= identity.ttl <= 60 and identity.token
    assert tokens.identify(tokens.issue("Sara", 0)).ttl == 0


def test_a_tokens_id_can_be_given_to_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that began with "-" would be taken for an option."""
    monkeypatch.setattr(secrets, "token_bytes", lambda size: b"\xfb" * size)
    tokens = Tokens(SECRET)
    id = tokens.identify(tokens.issue("Sara", 60)).token
    assert parser().parse_args(["revoke", "--token", id]).token == id


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"exp": int(time.time()) - 60}, TokenExpired),
        ({"nbf": int(time.time()) + 3600}, Unauthorized),
        ({"sub": "a b"}, Unauthorized),
        ({"sub": ""}, Unauthorized),
        ({"sub": 7}, Unauthorized),
        ({"channels": "news"}, Unauthorized),
        ({"channel": "news"}, Unauthorized),  # of a subscription
    ],
)
def test_claims_that_do_not_hold(claims: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Tokens(SECRET).identify(signed(claims))


@pytest.mark.parametrize(
    "token", ["", "x", "a.b.c", "é", "." * 5000, signed({}, "another secret of thirty-two bytes!!")]
)
def test_what_we_did_not_sign(token: str) -> None:
    with pytest.raises(Unauthorized):
        Tokens(SECRET).identify(token)


def spelled(header: bytes, payload: bytes = b'{"sub":"sara"}', secret: str = "") -> str:
    """A token of these very bytes; with a secret, one that is signed."""
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, payload)]
    signature = hmac.new(secret.encode(), b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


ODD_HEADERS = [
    b'{"alg":"HS256","crit":["\\ud800"]}',
    b'{"alg":"HS256","crit":["\\ud800\\ud800","b64"],"b64":false}',
    b'{"alg":"HS256","crit":[["b64"]]}',
    b'{"alg":"HS256","crit":"b64"}',
    b'{"alg":"HS256","crit":["' + b"x" * 50_000 + b'"]}',
    b'{"alg":"HS256","\\udfff":1}',
    b'{"alg":"\\ud800"}',
    b'{"alg":["HS256"]}',
    b'{"alg":"HS256","kid":["a"]}',
    b'{"alg":"RS256","kid":"\\ud800"}',
    b'{"alg":"RS256","kid":{"a":1}}',
    b'{"alg":"HS256","typ":5,"zip":"DEF"}',
    b'{"alg":' + b"[" * 40_000,
    b'{"alg":"HS256","x":' + b"9" * 5_000 + b"}",
    b"\xff\xfe",
    b"null",
    b"",
]


@pytest.mark.parametrize("header", ODD_HEADERS, ids=range(len(ODD_HEADERS)))
def test_a_token_with_an_odd_header_is_refused_in_words_that_can_be_sent(header: bytes) -> None:
    with pytest.raises(Unauthorized) as refusal:
        Tokens(SECRET).identify(spelled(header))
    assert len(str(refusal.value).encode()) < 400


@pytest.mark.parametrize("claim", ["sub", "info", "jti", "channel", "caps", "channels", "unknown"])
def test_a_lone_surrogate_is_in_no_token(claim: str) -> None:
    """Nothing of it could be stored or sent on."""
    value = '["\\ud800"]' if claim in ("caps", "channels") else '"\\ud800"'
    payload = f'{{"sub":"sara","{claim}":{value}}}'.encode()
    with pytest.raises(Unauthorized) as refusal:
        Tokens(SECRET).identify(spelled(b'{"alg":"HS256"}', payload, SECRET))
    assert str(refusal.value).encode()
    assert Tokens(SECRET).identify(spelled(b'{"alg":"HS256"}', b'{"sub":"sara"}', SECRET)).user.id == "sara"


def test_no_signature_is_no_signature() -> None:
    with pytest.raises(Unauthorized):
        Tokens(SECRET).identify(jwt.encode({"sub": "sara"}, "", algorithm="none"))


def test_public_keys(tmp_path: Path, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey) -> None:
    file = tmp_path / "keys"
    for key, algorithm in ((rsa_key, "RS256"), (ec_key, "ES256")):
        file.write_bytes(public_pem(key))
        assert Tokens("", file).identify(signed({}, key, algorithm)).user == User("sara", "Sara")
        with pytest.raises(Unauthorized):
            Tokens("", file).identify(signed({}))


def test_a_public_key_is_no_secret(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    """The confusion of algorithms: a token signed HS256 with the text of the public key."""
    file = tmp_path / "keys"
    file.write_bytes(public_pem(rsa_key))

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    body = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(b'{"sub":"sara"}')
    forged = body + b"." + part(hmac.digest(public_pem(rsa_key), body, hashlib.sha256))
    for tokens in (Tokens("", file), Tokens(SECRET, file)):
        with pytest.raises(Unauthorized):
            tokens.identify(forged.decode())


def test_a_jwks_file(tmp_path: Path, rsa_key: rsa.RSAPrivateKey, ec_key: ec.EllipticCurvePrivateKey) -> None:
    one = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key.public_key())) | {"kid": "one", "alg": "RS256"}
    two = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(ec_key.public_key())) | {"kid": "two", "alg": "ES256"}
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": [one, two]}))
    tokens = Tokens("", file)
    assert tokens.identify(signed({}, rsa_key, "RS256", kid="one")).user.id == "sara"
    assert tokens.identify(signed({}, ec_key, "ES256", kid="two")).user.id == "sara"
    for wrong in (signed({}, rsa_key, "RS256", kid="two"), signed({}, rsa_key, "RS256", kid="three")):
        with pytest.raises(Unauthorized):
            tokens.identify(wrong)


def test_bad_configuration_is_explained(tmp_path: Path, rsa_key: rsa.RSAPrivateKey) -> None:
    with pytest.raises(ConfigError, match="at least 32 bytes"):
        Tokens("short")
    private = tmp_path / "private"
    private.write_bytes(rsa_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    for path, says in ((private, "private key"), (tmp_path / "missing", "No such file"), (tmp_path, "directory")):
        with pytest.raises(ConfigError, match=says):
            Tokens("", path)
    private.write_text("garbage")
    with pytest.raises(ConfigError, match="PEM or JWKS"):
        Tokens("", private)
    with pytest.raises(ConfigError, match="AUTH_SECRET, which is not set"):
        Tokens().issue("sara", 1)
    with pytest.raises(BadRequest, match="caps are"):
        Tokens(SECRET).issue("sara", 1, caps=["fly"])


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    ("channels", "caps", "channel", "allowed"),
    [
        (None, None, "general", set(ACTIONS)),
        (("general",), None, "general", set(ACTIONS)),
        (("news.*",), None, "news.world", set(ACTIONS)),
        (("news.*",), None, "general", set()),
        ((), None, "general", set()),
        (None, {"history"}, "general", {"history"}),
        (("news.*",), {"publish"}, "news.world", {"publish"}),
        (None, set(), "general", set()),
    ],
)
def test_a_token_narrows_what_its_owner_may_do(
    action: str, channels: tuple[str, ...] | None, caps: set[str] | None, channel: str, allowed: set[str]
) -> None:
    identity = Identity(SARA, channels=channels, caps=None if caps is None else frozenset(caps))
    policy = Policy(owner="sara")
    if action in allowed:
        check(identity, action, channel, policy)
    else:
        with pytest.raises(PermissionDenied, match="your token allows"):
            check(identity, action, channel, policy)


@pytest.mark.parametrize(
    ("kind", "role", "narrowed", "allowed"),
    [
        ("private", "", {}, WRITE),
        ("public", "", {}, WRITE | {"create"}),  # as everybody
        ("read-only", "", {}, READ),  # as every member
        ("read-only", "moderator", {}, WRITE | {"create", "moderate"}),  # as without it
        ("private", "muted", {}, READ),
        ("private", "banned", {}, set()),
        ("private", "", {"guest": True}, WRITE),
        ("private", "muted", {"guest": True}, READ),
        ("private", "banned", {"guest": True}, set()),
        ("private", "", {"caps": frozenset(["subscribe"])}, {"subscribe"}),
        ("private", "", {"caps": frozenset(ACTIONS)}, WRITE),
        ("private", "", {"channels": ("news.*",)}, WRITE),
        ("private", "moderator", {"channels": ("news.*",)}, WRITE),
    ],
)
def test_what_a_token_for_a_subscription_opens(
    kind: str, role: str, narrowed: dict[str, Any], allowed: set[str]
) -> None:
    identity, policy = Identity(SARA, **narrowed), Policy(kind, "reza", {"sara": role} if role else {})
    for action in ACTIONS:
        if action in allowed:
            check(identity, action, "club", policy, granted=True)
        else:
            with pytest.raises(PermissionDenied):
                check(identity, action, "club", policy, granted=True)


def test_api_keys() -> None:
    keys = ApiKeys("0123456789abcdef, fedcba9876543210=news.*|Sport")
    everything, some = keys.identify("0123456789abcdef"), keys.identify("fedcba9876543210")
    assert everything.program and everything.channels is None
    assert some.channels == ("news.*", "sport")
    for wrong in ("", "0123456789abcde", "0123456789abcdeff", "é" * 16):
        with pytest.raises(Unauthorized):
            keys.identify(wrong)
    assert not ApiKeys("").enabled
    with pytest.raises(ConfigError, match="at least 16 letters"):
        ApiKeys("short")
    for odd in ("0123456789abcdef=", "MDEyMzQ1Njc4OWFiY2RlZg=="):  # all channels, where some were meant; base64
        with pytest.raises(ConfigError, match="KEY or KEY=PATTERN"):
            ApiKeys(odd)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *[(host, True) for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9")],
        *[(host, False) for host in ("0.0.0.0", "", "::", "192.168.1.5", "localhost.example")],
    ],
)
def test_an_open_network_needs_credentials(host: str, loopback: bool) -> None:

    def settings(**given: Any) -> ServerSettings:
        return ServerSettings(http_host=host, _env_file=None, **given)

    assert settings().on_loopback is loopback
    check_open(settings(auth_secret=SECRET))
    check_open(settings(api_key="0123456789abcdef"))
    assert not settings(trusted_proxies="127.0.0.1").on_loopback  # what comes by a proxy comes from elsewhere
    with pytest.raises(ConfigError, match="set AUTH_SECRET"):
        check_open(settings(trusted_proxies="127.0.0.1"))
    if loopback:
        check_open(settings())
    else:
        with pytest.raises(ConfigError, match="set AUTH_SECRET"):
            check_open(settings(guests="yes"))
