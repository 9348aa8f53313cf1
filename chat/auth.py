"""Who somebody is, and what they may do: tokens, API keys and the one function that every door asks. No I/O here.

A token is a JWT (RFC 7519): `sub` the user's name, `exp` and `iat`, `jti` its own id, `channels` patterns of the
channels it may touch, `caps` the actions it may take, `admin` that it may do all.
What is absent restricts nothing. One with `channel`, an id, is for a subscription: it lets nobody in, and makes who is
in a member of that channel as long as the subscription lasts.
"""

import hmac
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jwt
import msgspec

from chat.errors import BadRequest, PermissionDenied, TokenExpired, Unauthorized
from chat.lookalikes import check_chosen
from chat.models import User, fold
from pipeline.content import json_line
from redis_config import ConfigError

_READ = frozenset(("subscribe", "history", "presence"))
_WRITE = _READ | {"publish", "create"}
_MODERATE = _WRITE | {"moderate"}  # members, mutes, kicks and bans
_ALL = _MODERATE | {"manage"}  # description, kind, moderators, deleting
_MAKES = ("subscribe", "publish", "create")  # what makes a channel that is missing
_NONE: frozenset[str] = frozenset()
_GRANTED = _READ | {"publish"}  # what a token for a subscription opens, where a member may
ACTIONS = ("subscribe", "history", "presence", "publish", "create", "moderate", "manage")
PROGRAM = "api"  # who a program is that names nobody
CALL = "call"  # other services: of no channel
CAPS = (*ACTIONS, CALL)
KINDS = ("public", "private", "read-only")
GIVEN = ("member", "moderator", "muted", "banned")  # roles that are given
PAIR = "pair"  # the kind of a channel of two people, which only these two make (chat/private.py)
PAIR_PREFIX = "dm-"  # how the ids of those begin, and of no others
ASKED, DECLINED = "asked", "declined"  # what the second of the two is before they accept: a stranger
MUTED_MEMBER = "muted member"  # who was muted while a member, and stays one
_TRUSTED = {"admin": _ALL, "owner": _ALL, "moderator": _MODERATE, "program": _WRITE}


def _kind(member: frozenset[str], stranger: frozenset[str]) -> dict[str, frozenset[str]]:
    """What each role may do in a kind of channel. A mute leaves of what one could do the reading, a ban nothing."""
    roles = {**_TRUSTED, "member": member, "stranger": stranger}
    muted = {"muted": stranger & _READ, MUTED_MEMBER: member & _READ, "muted program": _WRITE & _READ}
    return {**roles, **muted, "banned": _NONE}


ALLOWED: dict[str, dict[str, frozenset[str]]] = {
    "public": _kind(member=_WRITE, stranger=_WRITE),
    "private": _kind(member=_WRITE, stranger=_NONE),
    "read-only": _kind(member=_READ, stranger=_READ),
}
_TWO = _WRITE | {"manage"}
ALLOWED[PAIR] = {
    **dict.fromkeys(ALLOWED["private"], _NONE),
    "admin": frozenset({"manage"}),
    "owner": _TWO,
    "member": _TWO,
}
"""What each role may do in each kind of channel (docs/security.md shows it)."""
ROLES = tuple(ALLOWED["public"])
SECRET_LIMIT = 32  # bytes a secret has at least (RFC 7518, section 3.2)
INFO_LIMIT = 1024  # bytes of a token's `info`
_LEEWAY = 5  # seconds that clocks may differ
_SHOWN = 200  # characters of what is wrong with a token: its header may be large, and is quoted


class Identity(msgspec.Struct, frozen=True):
    """Somebody at a door. `expires` is in Unix seconds, 0: never. `channels` and `caps` None: all."""

    user: User
    expires: int = 0
    issued: int = 0
    token: str = ""  # its id, jti
    channels: tuple[str, ...] | None = None
    caps: frozenset[str] | None = None
    guest: bool = False
    local: bool = False  # a guest on a laptop, where everybody is one
    admin: bool = False  # may do everything everywhere
    program: bool = False  # came with an API key: may speak for any user
    info: bytes = b""  # shown in presence, joins and leaves: one line of JSON, or nothing

    @property
    def owns_as(self) -> str:
        """Who owns what it makes: its user id; guests own nothing."""
        return "" if self.guest else self.user.id

    @property
    def stays(self) -> bool:
        """Whether what it does outlasts its connection: a guest that others can be, too, leaves nothing behind."""
        return not self.guest or self.local

    @property
    def counts_as(self) -> str:
        """Whose rates and numbers it uses up: its user id's; "": its address', for a guest's name may be anybody's."""
        return self.user.id if self.stays else ""

    @property
    def ttl(self) -> int:
        """Seconds left, at least 1; 0: for ever."""
        return max(1, self.expires - int(time.time())) if self.expires else 0


class Policy(msgspec.Struct, frozen=True):
    """What a channel says of who may do what: its kind, its owner, and the roles of others; all by user id."""

    kind: str = "public"
    owner: str = ""
    roles: Mapping[str, str] = {}
    made: bool = True  # whether the channel was there when this was read


def check(identity: Identity, action: str, channel: str, policy: Policy, granted: bool = False) -> None:
    """The one decision: may `identity` take `action` in `channel` (an id)? Raises PermissionDenied.

    `granted`: with a token for a subscription there. It stands for the pattern of a channel and the role of a member;
    `caps` narrow it, and who was given a role keeps that.
    """
    granted = granted and action in _GRANTED and policy.kind != PAIR
    if not policy.made and action in _MAKES and not (identity.program or identity.admin):
        check_chosen(channel)
    check_reach(identity, action, channel, granted)
    role = role_of(identity, policy, granted)
    if action in ALLOWED[policy.kind][role] or _everybodys(identity, policy, role):
        return
    given = policy.roles.get(identity.user.id, "")
    if given.startswith(("muted", "banned")):
        name, why = identity.user.username, given.partition(" ")[0]
        raise PermissionDenied(f"{name} is {why} in {channel}: no {action} by that name; ask its owner")
    raise PermissionDenied(f"{action} in the {policy.kind} channel {channel} is not for a {role}; ask its owner")


def check_reach(identity: Identity, action: str, channel: str, granted: bool = False) -> None:
    """Whether what `identity` came with is for that at all, whatever its user may. Raises PermissionDenied."""
    if identity.caps is not None and action not in identity.caps:
        raise PermissionDenied(f"your token allows {', '.join(sorted(identity.caps)) or 'nothing'}, not {action}")
    if identity.channels is not None and not granted and not _covers(identity.channels, channel):
        raise PermissionDenied(f"your token allows the channels {', '.join(identity.channels)}, not {channel}")


def check_call(identity: Identity, action: str, open_to_people: Collection[str]) -> None:
    """May `identity` have another service take `action`? Raises PermissionDenied.

    Those services trust whoever can speak on our Redis, and know nothing of our users. So programs and admins may call
    anything, people what the patterns of RPC_ACTIONS open to them, and who is narrowed to channels or caps nothing
    unless it has the cap `call`.
    """
    narrowed = identity.channels is not None or identity.caps is not None
    if narrowed and CALL not in (identity.caps or ()):
        raise PermissionDenied("your token or key is for channels and caps that do not include: call")
    if not (identity.admin or identity.program or _covers(open_to_people, action)):
        raise PermissionDenied(
            f"the action {action} is not open to people; RPC_ACTIONS can open it, programs may call it"
        )


def role_of(identity: Identity, policy: Policy, granted: bool = False) -> str:
    """What `identity` is in a channel: one of ROLES. `granted`: with a token for a subscription, as a member."""
    if identity.admin:
        return "admin"
    if identity.guest and not granted and identity.user.id not in policy.roles:  # as most of those who are asked for
        return "stranger"
    role = policy.roles.get(identity.user.id, "stranger")
    if role == "banned":  # whoever comes by that name
        return role
    if role in (ASKED, DECLINED):
        role = "stranger"
    muted = role.startswith("muted")
    if identity.program:
        return "muted program" if muted else "program"
    if identity.guest:  # anybody may take that name, and only loses by it
        role = "muted" if muted else "stranger"
    elif identity.user.id == policy.owner:
        return "owner"
    return {"stranger": "member", "muted": MUTED_MEMBER}.get(role, role) if granted else role


def _everybodys(identity: Identity, policy: Policy, role: str) -> bool:
    """A public channel without an owner belongs to everybody where everybody is a guest: on a laptop."""
    return identity.local and policy.kind == "public" and not policy.owner and role == "stranger"


def _covers(patterns: Collection[str], channel: str) -> bool:
    return any(fnmatchcase(channel, pattern) for pattern in patterns)


class Claims(msgspec.Struct):
    """What we read of a token. `channel` is of a token for one subscription."""

    sub: str
    exp: int | float = 0
    iat: int | float = 0
    jti: str = ""
    info: Any = None
    channel: str = ""
    channels: list[str] | None = None
    caps: list[str] | None = None
    admin: bool = False


class Tokens:
    """Verifies tokens, with AUTH_SECRET (HS256), or with the public keys in AUTH_KEYS (RS256, ES256): PEM or JWKS."""

    def __init__(self, secret: str = "", keys: Path | None = None) -> None:
        if secret and len(secret.encode()) < SECRET_LIMIT:
            raise ConfigError(f"AUTH_SECRET has at least {SECRET_LIMIT} bytes; make one: openssl rand -hex 32")
        self._secret = secret
        self._keys = _read_keys(keys) if keys is not None else {}

    @property
    def enabled(self) -> bool:
        return bool(self._secret or self._keys)

    def verify(self, token: str) -> Claims:
        """Raises Unauthorized and TokenExpired."""
        try:
            header = jwt.get_unverified_header(token)
            key, algorithms = self._key(header)
            payload = jwt.decode(token, key, algorithms=algorithms, leeway=_LEEWAY, options={"require": ["sub"]})
            msgspec.json.encode(payload)  # jwt lets lone surrogates pass, which nobody could send on
            return msgspec.convert(payload, Claims)
        except jwt.ExpiredSignatureError:
            raise TokenExpired("the token has expired; get a new one") from None
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError) as error:
            raise Unauthorized(f"the token is not valid: {str(error)[:_SHOWN]}") from None

    def identify(self, token: str, channel: str = "") -> Identity:
        """Who a token says somebody is; with `channel` (an id), a token for a subscription to it.

        Raises Unauthorized and TokenExpired.
        """
        claims = self.verify(token)
        if claims.channel != channel:
            elsewhere = f"this token is not for a subscription to {channel}"
            raise Unauthorized(elsewhere if channel else "this token is for a subscription; give it in subscribe.token")
        try:
            user = User.named(claims.sub)
            info = b"" if claims.info is None else json_line(msgspec.json.encode(claims.info), INFO_LIMIT)
        except BadRequest as error:
            raise Unauthorized(f"the token's sub or info: {error}") from None
        channels = None if claims.channels is None else tuple(map(fold, claims.channels))
        caps = None if claims.caps is None else frozenset(claims.caps)
        return Identity(
            user, int(claims.exp), int(claims.iat), claims.jti, channels, caps, admin=claims.admin, info=info
        )

    def issue(
        self,
        username: str,
        ttl: int,
        channels: Sequence[str] = (),
        caps: Sequence[str] = (),
        admin: bool = False,
        at: int = 0,
    ) -> str:
        """A token signed with AUTH_SECRET. `ttl` is in seconds, 0: for ever; `at` is Unix s, 0: now.

        Raises ConfigError and BadRequest.
        """
        if not self._secret:
            raise ConfigError("tokens are made with AUTH_SECRET, which is not set; make one: openssl rand -hex 32")
        if unknown := set(caps) - set(CAPS):
            raise BadRequest(f"caps are {', '.join(CAPS)}; not {', '.join(sorted(unknown))}")
        now = at or int(time.time())
        claims: dict[str, Any] = {"sub": User.named(username).username, "iat": now, "jti": secrets.token_hex(9)}
        claims |= {"exp": now + ttl} if ttl else {}
        claims |= {"channels": [fold(name) for name in channels]} if channels else {}
        claims |= {"caps": list(caps)} if caps else {}
        claims |= {"admin": True} if admin else {}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def _key(self, header: Mapping[str, Any]) -> tuple[Any, list[str]]:
        """The key for a token and the algorithms that go with it: never those the token asks for."""
        if header.get("alg") == "HS256" and self._secret:
            return self._secret, ["HS256"]
        kid = str(header.get("kid") or "")
        key = next(iter(self._keys.values())) if len(self._keys) == 1 and not kid else self._keys.get(kid)
        if key is None:
            known = ["HS256"] if self._secret else []
            known += sorted({name for _, names in self._keys.values() for name in names})
            raise Unauthorized(f"no key here for this token; tokens are signed with {' or '.join(known) or 'nothing'}")
        return key


def _read_keys(path: Path) -> dict[str, tuple[Any, list[str]]]:
    """Public keys by their id (`kid`); one of a PEM file is without."""
    try:
        text = path.read_text()
        if "PRIVATE KEY" in text:
            raise ValueError("it holds a private key; this server needs the public one only")
        if text.lstrip().startswith("{"):
            keys = jwt.PyJWKSet.from_json(text).keys
            return {key.key_id or "": (key.key, _algorithms(key.algorithm_name)) for key in keys}
        kind = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256)
        try:
            return {"": (kind.prepare_key(text), ["RS256"])}
        except (jwt.InvalidKeyError, TypeError, ValueError):
            curve = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256)
            return {"": (curve.prepare_key(text), ["ES256"])}
    except (OSError, ValueError, jwt.PyJWTError) as error:
        raise ConfigError(f"AUTH_KEYS {path}: {error}; it is a PEM or JWKS file of public keys") from None


def _algorithms(name: str) -> list[str]:
    if name not in ("RS256", "ES256"):
        raise ValueError(f"{name} keys are not taken; RS256 and ES256 are")
    return [name]


class ApiKeys:
    """Keys of publishing programs: `KEY`, or `KEY=PATTERN|PATTERN` for some channels only, separated by commas."""

    def __init__(self, text: str = "") -> None:
        self._keys: list[tuple[bytes, tuple[str, ...] | None]] = []
        for item in filter(None, map(str.strip, text.split(","))):
            key, narrowed, patterns = item.partition("=")
            if narrowed and (not patterns or patterns.startswith("=")):
                raise ConfigError(
                    "a key in API_KEY is KEY or KEY=PATTERN, and holds no '=' itself: openssl rand -hex 16"
                )
            scope = tuple(map(fold, patterns.split("|"))) if patterns else None
            if len(key) < SECRET_LIMIT // 2:
                raise ConfigError(f"a key in API_KEY has at least {SECRET_LIMIT // 2} letters: openssl rand -hex 16")
            self._keys.append((key.encode(), scope))

    @property
    def enabled(self) -> bool:
        return bool(self._keys)

    def identify(self, key: str) -> Identity:
        """The program that has `key`. Compares with every key, in constant time. Raises Unauthorized."""
        found: list[Identity] = []
        for known, scope in self._keys:
            if hmac.compare_digest(known, key.encode()):
                caps = _WRITE | {CALL} if scope is None else _WRITE
                found.append(Identity(User.named(PROGRAM), channels=scope, caps=caps, program=True))
        if not found:
            raise Unauthorized("no such API key; it goes into the header X-API-Key")
        return found[0]
