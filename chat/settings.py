"""What the server may be told, beyond where its Redis is."""

import ipaddress
import logging
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, field_validator

from chat.models import NAME_LIMIT
from chat.origin import is_host, is_origin, listed, without_default_port
from redis_config import Settings

AUTO = {
    "command_rate": 200,
    "publish_rate": 50,
    "user_command_rate": 400,
    "user_publish_rate": 100,
    "address_connections": 100,
    "user_connections": 50,
    "user_new_channels": 100,
    "address_new_channels": 300,
    "address_sign_ins": 30,
    "address_accounts": 10,
}
"""What `auto` means where others can connect. On loopback it means no limit: a laptop is one address."""


def _number_or_auto(value: object) -> object:
    if value == "auto" or (isinstance(value, int) and value >= 0):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    raise ValueError("must be a whole number (0: no limit) or auto")


Limit = Annotated[int | Literal["auto"], BeforeValidator(_number_or_auto)]


def _limit(name: str, meaning: str) -> Limit:
    """A setting that is off on loopback if nothing else is said. `limit` resolves it."""
    value: Limit = Field("auto", description=f"{meaning}; auto: {AUTO[name]}, but on loopback 0 (no limit)")
    return value


class ServerSettings(Settings):
    """The settings of `serve` and the terminal. Each has its default and its unit here and nowhere else."""

    http_host: str = Field("127.0.0.1", description="address to listen on")
    http_port: int = Field(5000, ge=0, le=65535, description="port to listen on")
    auth_secret: SecretStr = Field(
        SecretStr(""), description="secret that tokens are signed with (HS256), 32 bytes or more"
    )
    auth_keys: Path | None = Field(None, description="PEM or JWKS file of the public keys of tokens (RS256, ES256)")
    api_key: SecretStr = Field(
        SecretStr(""), description=r"keys of programs: `KEY` or `KEY=PATTERN\|PATTERN`, with commas"
    )
    guests: Literal["auto", "yes", "no"] = Field(
        "auto", description="whether people come in without a token; auto: on loopback"
    )
    registration: Literal["auto", "yes", "no"] = Field(
        "auto", description="whether people may register; auto: without AUTH_SECRET and AUTH_KEYS"
    )
    session_ttl: int = Field(
        14 * 86400, ge=60, le=3660 * 86400, description="seconds after which who registered signs in again"
    )
    http_workers: int = Field(1, ge=1, le=1024, description="server processes that share the port")
    worker_timeout: int = Field(
        60, ge=5, le=3600, description="seconds after which a worker that answers nothing, or never begins, is replaced"
    )
    message_limit: int = Field(64 * 1024, ge=1, description="largest message, bytes of JSON")
    event_batch: int = Field(1000, ge=1, description="events in one batch posted to /api/events")
    batch_bytes: int = Field(1024 * 1024, ge=1, description="largest body posted to /api/events")
    json_depth: int = Field(32, ge=1, description="levels of arrays and objects a message may have")
    frame_limit: int = Field(1024 * 1024, ge=1, description="largest WebSocket frame, bytes")
    high_water: int = Field(256 * 1024, ge=1, description="unread bytes of a socket before it is no longer pushed to")
    reader_timeout: float = Field(20, gt=0, description="seconds a full socket may stand still before it is dropped")
    recovery_limit: int = Field(
        1000, ge=0, description="messages a reconnecting client is sent; beyond, it pages history"
    )
    page_limit: int = Field(1000, ge=1, description="messages in one page of history")
    page_bytes: int = Field(256 * 1024, ge=1, description="bytes in one page of history")
    pending_limit: int = Field(1024, ge=1, description="publishes of one client that may await their stream")
    ping_interval: int = Field(25, ge=1, le=3600, description="seconds between the server's pings")
    connect_timeout: int = Field(10, ge=1, le=3600, description="seconds a socket has to say its first command")
    check_interval: float = Field(5, gt=0, description="seconds between comparisons of positions with Redis")
    shutdown_timeout: int = Field(10, ge=0, le=3600, description="seconds clients have to leave at shutdown")
    header_limit: int = Field(65536, ge=1, description="largest first line and headers of a request, bytes")
    handshake_timeout: float = Field(10, gt=0, description="seconds a connection has to send a whole request")
    keep_alive_timeout: int = Field(
        75,
        ge=1,
        le=86400,
        description="seconds an HTTP connection may wait for its next request; more than the proxy before it has",
    )
    allowed_origins: str = Field("", description="other web origins whose pages may connect, separated by commas")
    cors_cookies: bool = Field(False, description="1: pages of ALLOWED_ORIGINS come with their cookies, too")
    allowed_hosts: str = Field(
        "",
        description="hosts this server answers to, separated by commas (`chat.example.com`, `*.example.com`); "
        "empty: on loopback this machine's names, elsewhere any",
    )
    trusted_proxies: str = Field("", description="addresses or networks whose X-Forwarded-For and -Proto are believed")
    channel_name_length: int = Field(
        NAME_LIMIT, ge=1, le=NAME_LIMIT, description=f"longest channel name, characters; at most {NAME_LIMIT}"
    )
    subscription_limit: int = Field(512, ge=0, description="subscriptions of one client (0: no limit)")
    user_channels: int = Field(1000, ge=0, description="channels one user may belong to (0: no limit)")
    user_new_channels: Limit = _limit("user_new_channels", "channels one user who is no guest may make in an hour")
    address_new_channels: Limit = _limit("address_new_channels", "channels one address may make in an hour")
    address_connections: Limit = _limit("address_connections", "connections of one address at a time")
    user_connections: Limit = _limit("user_connections", "connected clients of one user who is no guest")
    command_rate: Limit = _limit("command_rate", "commands a second of one client")
    publish_rate: Limit = _limit("publish_rate", "messages a second of one client")
    user_command_rate: Limit = _limit(
        "user_command_rate", "commands a second of one user, or requests and guests' commands of one address"
    )
    user_publish_rate: Limit = _limit(
        "user_publish_rate", "messages a second of one user; of guests, and over HTTP, of one address"
    )
    user_asks: int = Field(100, ge=1, description="people one may ask to talk alone in a day, and who may ask one")
    address_sign_ins: Limit = _limit("address_sign_ins", "sign-ins by password from one address in a minute")
    address_accounts: Limit = _limit("address_accounts", "new accounts from one address in an hour")
    account_limit: int = Field(100_000, ge=0, description="accounts there may be (0: no limit)")
    user_sign_outs: int = Field(
        100, ge=1, description="sign-outs of one user kept one by one; one more ends all sessions of that user"
    )
    sign_in_queue: int = Field(16, ge=1, description="passwords that may wait to be checked, one after another")
    rpc_actions: str = Field(
        "auto",
        description="patterns of the actions people may call, separated by commas; "
        "auto: all on loopback, elsewhere and behind a proxy none",
    )
    peyk_url: str = Field("", description="server the terminal, send and replay talk to (--url), instead of Redis")
    peyk_token: SecretStr = Field(SecretStr(""), description="token they show that server")
    command_bytes: int = Field(
        16 * 1024, ge=1024, description="bytes of a body, or of an answer, that count as one command more"
    )
    rate_burst: float = Field(5, gt=0, description="seconds' worth of a rate that may come at once")

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in listed(value):
            if not is_origin(origin):
                raise ValueError(f"{origin[:80]!r} is not an origin; write https://chat.example.com, no path, no slash")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, value: str) -> str:
        for host in listed(value):
            if named := without_default_port(host):
                raise ValueError(f"{host[:80]!r}: browsers leave out :80 and :443; write {named[:80]}, for any port")
            if not is_host(host):
                known = "chat.example.com, chat.example.com:8443, *.example.com, [::1] or *"
                raise ValueError(f"{host[:80]!r} is no host; write {known}")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for item in listed(value) - {"*"}:
            try:
                ipaddress.ip_network(item)
            except ValueError as error:
                text = f"{item[:80]!r} is no address or network ({error}); write 10.0.0.1, 10.0.0.0/8, fd00::/8 or *"
                raise ValueError(text) from None
        return value

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect: it listens there, and no proxy brings what comes from elsewhere."""
        if self.trusted_proxies:
            return False
        try:
            return self.http_host == "localhost" or ipaddress.ip_address(self.http_host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def names_given(self) -> bool:
        """Whether names come with tokens, from whoever makes them."""
        return bool(self.auth_secret.get_secret_value()) or self.auth_keys is not None

    @property
    def open_actions(self) -> frozenset[str]:
        """The patterns of RPC_ACTIONS."""
        if self.rpc_actions == "auto":
            return frozenset("*" if self.on_loopback else ())
        return listed(self.rpc_actions)

    def limit(self, name: str) -> int:
        """A limit as it stands: what was said counts; else none on loopback, and what AUTO says elsewhere. 0: none."""
        value: int | str = getattr(self, name)
        if isinstance(value, int):
            return value
        return 0 if self.on_loopback else AUTO[name]


# What moves a cursor, begins a line or turns one around: C0, DEL, C1, line separators, bidi controls, lone surrogates.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Lines(logging.Formatter):
    """One line a record, whatever clients put into it: what is unseen is escaped, a traceback is indented behind it."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        behind = [self.formatException(record.exc_info)] if record.exc_info else []
        behind += [self.formatStack(record.stack_info)] if record.stack_info else []
        lines = [self.formatMessage(record), *(f"    {line}" for text in behind for line in text.split("\n"))]
        return "\n".join(_UNSEEN.sub(_escaped, line) for line in lines)


def _escaped(unseen: re.Match[str]) -> str:
    code = ord(unseen[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def log(level: int) -> None:
    """Write log lines of `level` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
