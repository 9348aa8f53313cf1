"""Settings that cannot be are refused. Log lines cannot be forged."""

import logging
import sys
import urllib.error
import urllib.parse
import urllib.request

import pytest
import redis
from pydantic import ValidationError

from chat.settings import Lines, ServerSettings
from tests.services import PeykServer, RedisProcess, wait_until

FORGED = "\n2026-01-01 00:00:00,000 ERROR chat.forged: forged\r\x1b[2J\x1b]52;c;aGk=\x07\x9b31m\u202e\u2028\ud800"


def written(*args: object, exc_info: bool = False) -> str:
    record = logging.LogRecord("chat.x", logging.INFO, __file__, 1, "a %s", args, sys.exc_info() if exc_info else None)
    return Lines("%(asctime)s %(levelname)s %(name)s: %(message)s").format(record)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("trusted_proxies", value) for value in ("127.0.0.1/8", "10.0.0.0/33", "nonsense", "::1, 10.0.0.256")],
        *[(name, "nan") for name in ("check_interval", "rate_burst", "lease_ttl", "reader_timeout")],
        *[(name, "inf") for name in ("check_interval", "rate_burst", "handshake_timeout")],
        *[(name, "0") for name in ("check_interval", "pending_limit", "frame_limit", "page_bytes", "ping_interval")],
        *[(name, "-1") for name in ("high_water", "message_limit", "page_limit", "recovery_limit", "shutdown_timeout")],
        ("idempotency_ttl", "99999999999999999"),
        *[(name, "1000000000") for name in ("ping_interval", "connect_timeout", "keep_alive_timeout", "http_workers")],
        *[(name, "9" * 20) for name in ("session_ttl", "shutdown_timeout")],
    ],
)
def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(ValidationError, match=name):
        ServerSettings(_env_file=None)


@pytest.mark.parametrize("value", ["", "*", "127.0.0.1", "10.0.0.0/8, fd00::/8, ::1"])
def test_proxies_are_addresses_and_networks(value: str) -> None:
    assert ServerSettings(trusted_proxies=value, _env_file=None).trusted_proxies == value


def test_a_record_is_one_line_of_visible_characters() -> None:
    line = written(FORGED)
    assert line.isprintable() and line.endswith("\\x1b]52;c;aGk=\\x07\\x9b31m\\u202e\\u2028\\ud800")
    assert "a \\x0a2026-01-01" in line
    assert written("سلام به‌خیر").endswith("a سلام به‌خیر")


def test_what_an_exception_says_begins_no_line() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        first, *rest = written("x", exc_info=True).split("\n")
    assert first.endswith("INFO chat.x: a x") and len(rest) > 3
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
    assert sum("forged" in line for line in rest) == 1


def test_a_server_writes_a_path_in_one_line(valkey_process: RedisProcess) -> None:
    path = "/api/channels/general/subscribers/sara" + FORGED[:-1]
    with PeykServer({"REDIS_URL": valkey_process.url}) as server, redis.Redis(port=valkey_process.port) as client:
        client.set("channel:general", "not a hash")  # so that the request fails, and its path is logged
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(server.url + urllib.parse.quote(path), timeout=180)
        wait_until(lambda: b"subscribers/sara" in server.log.read_bytes(), what="the path is logged")
        client.flushall()
        lines = server.log.read_text().splitlines()
    (line,) = [line for line in lines if "forged" in line and "Traceback" not in line][:1]
    assert not line.startswith("2026-01-01") and "\\x1b[2J\\x1b]52" in line
    assert all(line.isprintable() for line in lines), lines
