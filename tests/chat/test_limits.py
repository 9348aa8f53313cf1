"""The rules of chat/limits.py, with a clock that the test moves."""

import pytest
from pydantic import ValidationError

from chat.errors import LimitExceeded, TooManyRequests
from chat.limits import PATIENCE, Limits, TokenBucket
from chat.settings import AUTO, ServerSettings


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limits(clock: Clock, **settings: float) -> Limits:
    return Limits(ServerSettings.model_validate({"http_host": "127.0.0.1", **settings}), clock)


# -- the bucket


@pytest.mark.parametrize(("rate", "burst"), [(1, 1), (3, 7), (10, 1), (7, 1000), (1000, 5000)])
def test_a_bucket_gives_its_burst_and_not_one_more(rate: int, burst: int) -> None:
    bucket = TokenBucket(rate, burst)
    for now in (5.0, 1e6, 1e7):  # full again each time
        assert all(bucket.take(now) == 0.0 for _ in range(burst))
        assert 0 < bucket.take(now) <= 1 / rate


def test_a_bucket_fills_at_its_rate(clock: Clock) -> None:
    bucket = TokenBucket(10, 5)
    for _ in range(5):
        bucket.take(clock.now)
    wait = bucket.take(clock.now)
    assert not bucket.is_full(clock.now)
    clock.now += wait * 0.9
    assert bucket.take(clock.now) > 0
    clock.now += wait * 0.1 + 1e-6
    assert bucket.take(clock.now) == 0.0
    clock.now += 0.31
    assert [bucket.take(clock.now) == 0.0 for _ in range(4)] == [True, True, True, False]
    clock.now += 0.61
    assert bucket.is_full(clock.now)


def test_over_a_long_flood_a_bucket_gives_its_rate_and_nothing_for_refusals(clock: Clock) -> None:
    bucket, start, given = TokenBucket(20, 100), clock.now, 0
    while clock.now < start + 60:
        given += sum(bucket.take(clock.now) == 0.0 for _ in range(50))
        clock.now += 0.01
    assert abs(given - (100 + 20 * 60)) <= 1


def test_a_full_bucket_gives_more_than_it_holds_and_makes_up_for_it(clock: Clock) -> None:
    bucket = TokenBucket(10, 5)
    assert bucket.take(clock.now, 100) == 0.0
    assert bucket.take(clock.now) == pytest.approx(9.6, abs=0.1)  # until 95 that were not there have come, and one more
    clock.now += 9.7
    assert bucket.take(clock.now) == 0.0
    assert bucket.take(clock.now, 100) > 0  # it is not full
    clock.now += 0.6
    assert bucket.take(clock.now, 6) == 0.0


# -- clients and their users


def test_a_client_has_its_rates_and_its_users(clock: Clock) -> None:
    both = limits(clock, command_rate=5, publish_rate=2, user_command_rate=8, user_publish_rate=3, rate_burst=1)
    paces = [both.pace(), both.pace()]
    for pace in paces:
        both.connect("sara", pace)
    one, two = paces
    assert one is not None and two is not None
    assert [one.take(clock.now, True) == 0.0 for _ in range(3)] == [True, True, False]  # a client's messages
    assert [two.take(clock.now, True) == 0.0 for _ in range(2)] == [True, False]  # the user's
    clock.now += 10
    assert [one.take(clock.now, False) == 0.0 for _ in range(6)] == [True] * 5 + [False]  # a client's commands
    assert [two.take(clock.now, False) == 0.0 for _ in range(4)] == [True] * 3 + [False]  # the user's
    other = both.pace()
    both.connect("babak", other)
    assert other is not None and other.take(clock.now, True) == 0.0


def test_a_user_that_comes_back_finds_its_rate_as_it_left_it(clock: Clock) -> None:
    one = limits(clock, user_command_rate=2, rate_burst=1)
    for expected in ([True, True, False], [False] * 3):
        pace = one.pace()
        one.connect("sara", pace)
        assert pace is not None
        assert [pace.take(clock.now, False) == 0.0 for _ in range(3)] == expected
        one.disconnect("sara")


def test_guests_have_the_rates_of_their_address_and_no_places_of_their_own(clock: Clock) -> None:
    few = limits(clock, user_command_rate=3, user_connections=1, rate_burst=1)
    paces = [few.pace() for _ in range(3)]
    for pace, address in zip(paces, ("192.0.2.1", "192.0.2.1", "192.0.2.2"), strict=True):
        few.connect("", pace, address)
    few.request("192.0.2.1")
    assert [pace is not None and pace.take(clock.now, False) == 0.0 for pace in paces] == [True] * 3
    assert [pace is not None and pace.take(clock.now, False) == 0.0 for pace in paces] == [False, False, True]
    few.disconnect("")


def test_where_nothing_is_limited_there_is_no_pace(clock: Clock) -> None:
    assert limits(clock).pace() is None
    for name in ("command_rate", "publish_rate", "user_command_rate", "user_publish_rate"):
        assert limits(clock, **{name: 1}).pace() is not None


def test_who_is_refused_without_a_pause_goes_on_too_long(clock: Clock) -> None:
    pace = limits(clock, command_rate=10, rate_burst=3).pace()
    assert pace is not None
    start = clock.now
    while not pace.goes_on(clock.now):
        clock.now += 0.1
    assert clock.now - start == pytest.approx(3 * PATIENCE, abs=0.2)
    clock.now += 3.1  # a pause
    assert not pace.goes_on(clock.now)


@pytest.mark.parametrize("most", [1, 3])
def test_connections_of_a_user(clock: Clock, most: int) -> None:
    few = limits(clock, user_connections=most)
    for _ in range(most):
        few.connect("sara", None)
    with pytest.raises(LimitExceeded, match=f"at most {most} connected clients; close another"):
        few.connect("sara", None)
    few.connect("babak", None)
    few.disconnect("sara")
    few.connect("sara", None)


def test_subscriptions_of_a_client(clock: Clock) -> None:
    few = limits(clock, subscription_limit=3)
    few.check_subscriptions(2)
    with pytest.raises(LimitExceeded, match="at most 3 subscriptions; unsubscribe"):
        few.check_subscriptions(3)
    limits(clock, subscription_limit=0).check_subscriptions(10**6)


# -- addresses


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8:1:2::3", "2001:db8:1:2:4:5:6:7", True),  # one line's network
        ("2001:db8:1:2::3", "2001:db8:1:3::3", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("unknown", "_hidden", False),  # RFC 7239, section 6.3
    ],
)
def test_what_is_one_address(clock: Clock, one: str, other: str, same: bool) -> None:
    few = limits(clock, address_connections=1)
    few.enter(one)
    if same:
        with pytest.raises(TooManyRequests, match="one address has at most 1 connections"):
            few.enter(other)
    else:
        few.enter(other)
    few.leave(one)
    few.enter(one)


def test_a_unix_socket_has_no_address_to_limit(clock: Clock) -> None:
    few = limits(clock, address_connections=1)
    few.enter("")
    few.enter("")


def test_a_user_is_no_address(clock: Clock) -> None:
    few = limits(clock, address_connections=1, user_connections=1)
    few.enter("192.0.2.1")
    few.connect("192.0.2.1", None)


def test_http_requests_and_messages_are_their_addresses_or_users(clock: Clock) -> None:
    few = limits(clock, user_command_rate=4, user_publish_rate=2, rate_burst=1)
    for _ in range(4):
        few.request("192.0.2.1")
    with pytest.raises(TooManyRequests, match=r"too many requests; wait 0\.19 s") as refusal:
        few.request("192.0.2.1")
    assert refusal.value.retry_after == pytest.approx(0.19, abs=0.01)
    for address, user in (("192.0.2.1", ""), ("192.0.2.1", "sara")):
        few.message(address, user)
        few.message(address, user)
        with pytest.raises(TooManyRequests, match="too many messages"):
            few.message(address, user)
    few.request("192.0.2.2")


def test_what_is_large_is_paid_for_by_what_follows(clock: Clock) -> None:
    few = limits(clock, command_rate=5, user_command_rate=4, rate_burst=1, command_bytes=1024)
    few.owe("192.0.2.1", few.extra(1024))
    for _ in range(4):
        few.request("192.0.2.1")  # so much is in the price
    few.owe("192.0.2.1", few.extra(10 * 1024))
    for wait in (2.69, 0.19):
        with pytest.raises(TooManyRequests) as refusal:
            few.request("192.0.2.1")
        assert refusal.value.retry_after == pytest.approx(wait, abs=0.01)
        clock.now += 2.5
    few.request("192.0.2.1")
    pace = few.pace()
    few.connect("sara", pace)
    assert pace is not None
    pace.owe(clock.now, 10)
    assert pace.take(clock.now, False) == pytest.approx(1.15) and pace.take(clock.now, True)
    clock.now += 1.7
    assert pace.take(clock.now, False) == 0.0


def test_many_clients_of_one_user_are_looked_at_no_faster_than_the_rate(clock: Clock) -> None:
    many = limits(clock, command_rate=100, user_command_rate=10, rate_burst=0.1)
    paces = [many.pace() for _ in range(5)]
    for pace in paces:
        many.connect("sara", pace)
    waits = [pace.take(clock.now, False) for pace in paces if pace is not None]
    assert waits == pytest.approx([0.0, 0.075, 0.1, 0.2, 0.3])


def test_who_is_idle_is_forgotten_and_who_is_not_is_remembered(clock: Clock) -> None:
    many = limits(clock, user_command_rate=1, user_connections=1, rate_burst=1)
    many.connect("connected", None)
    many.request("192.0.2.99")
    for round_ in range(20):
        clock.now += 0.9 if round_ == 19 else 2  # in the last round those of the one before are not full again
        if round_ == 19:
            many.request("192.0.2.200")
        for number in range(1000):
            many.request(f"10.0.{round_}.{number}")
        assert len(many) < 5000
    with pytest.raises(LimitExceeded):
        many.connect("connected", None)
    with pytest.raises(TooManyRequests):
        many.request("192.0.2.200")


# -- the settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_auto_is_off(host: str) -> None:
    settings = ServerSettings(http_host=host)
    assert [settings.limit(name) for name in AUTO] == [0] * len(AUTO)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "chat.example.com", "", "localhost.example.com"])
def test_elsewhere_auto_is_on(host: str) -> None:
    settings = ServerSettings(http_host=host)
    assert {name: settings.limit(name) for name in AUTO} == AUTO
    behind = ServerSettings(http_host="127.0.0.1", trusted_proxies="127.0.0.1")
    assert {name: behind.limit(name) for name in AUTO} == AUTO
    assert Limits(settings).pace() is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_what_is_said_counts_everywhere(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMAND_RATE", "7")
    monkeypatch.setenv("USER_CONNECTIONS", "0")
    monkeypatch.setenv("PUBLISH_RATE", "auto")
    settings = ServerSettings(http_host=host)
    assert (settings.limit("command_rate"), settings.limit("user_connections")) == (7, 0)
    assert settings.limit("publish_rate") == (0 if settings.on_loopback else AUTO["publish_rate"])


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "٣"])
def test_a_limit_that_is_none_is_an_error_that_names_it(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMMAND_RATE", value)
    with pytest.raises(ValidationError, match="must be a whole number") as error:
        ServerSettings()
    assert error.value.errors()[0]["loc"] == ("command_rate",)


def test_refusals_come_no_faster_than_what_is_refused(clock: Clock) -> None:
    """However many connections of an address are refused at once; another address does not wait."""
    few = limits(clock, user_command_rate=10)
    assert [few.refuse("192.0.2.1") for _ in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert few.refuse("192.0.2.2") == 0
    clock.now += 0.25
    assert few.refuse("192.0.2.1") == pytest.approx(0.15)
    assert max(few.refuse("192.0.2.1") for _ in range(1000)) <= 2.1  # s
    clock.now += 10
    assert few.refuse("192.0.2.1") == 0
