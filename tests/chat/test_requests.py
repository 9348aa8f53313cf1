"""What a request says, where no server is needed."""

import pytest
from starlette.requests import HTTPConnection

from chat.requests import cookie_of


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ([b"peyk=a.b-c_d"], "a.b-c_d"),
        ([b"other=1; peyk=a.b; last=2"], "a.b"),
        ([b"other=1;peyk=a"], "a"),
        ([b"other=1", b"peyk=a "], "a"),
        ([b"peyk=old; peyk=new"], "new"),
        ([b"peyk="], ""),
        ([b"peyk-known=1; xpeyk=2; other=peyk=3; other=4 peyk=5"], ""),
        ([b"peyk"], ""),
        ([b"a=b;" * 15_000 + b"peyk=a"], "a"),
        ([], ""),
    ],
)
def test_a_cookie_is_found_among_others(headers: list[bytes], value: str) -> None:
    assert (
        cookie_of(HTTPConnection({"type": "http", "headers": [(b"cookie", header) for header in headers]}), "peyk")
        == value
    )
