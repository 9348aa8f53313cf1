"""What the server may be told, beyond where its Redis is."""

import logging
import re
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from redis_config import Settings


class ServerSettings(Settings):
    """The settings of `serve` and the terminal. Each has its default and its unit here and nowhere else."""

    http_host: str = Field("127.0.0.1", description="address to listen on")
    http_port: int = Field(5000, description="port to listen on")
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
        "auto", description="whether people may register; auto: without AUTH_KEYS"
    )
    session_ttl: int = Field(14 * 86400, ge=60, description="seconds after which who registered signs in again")
    http_workers: int = Field(1, ge=1, description="server processes that share the port")
    message_limit: int = Field(64 * 1024, description="largest message, bytes of JSON")
    json_depth: int = Field(32, ge=1, description="levels of arrays and objects a message may have")
    frame_limit: int = Field(1024 * 1024, description="largest WebSocket frame, bytes")
    high_water: int = Field(256 * 1024, description="unread bytes of a socket before it is no longer pushed to")
    reader_timeout: float = Field(20, description="seconds a full socket may stand still before it is dropped")
    recovery_limit: int = Field(1000, description="messages a reconnecting client is sent; beyond, it pages history")
    page_limit: int = Field(1000, description="messages in one page of history")
    page_bytes: int = Field(1024 * 1024, description="bytes in one page of history")
    pending_limit: int = Field(1024, description="publishes of one client that may await their stream")
    ping_interval: int = Field(25, description="seconds between the server's pings")
    connect_timeout: int = Field(10, description="seconds a socket has to say its first command")
    check_interval: float = Field(5, description="seconds between comparisons of positions with Redis")
    shutdown_timeout: int = Field(10, description="seconds clients have to leave at shutdown")


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
