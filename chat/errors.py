"""What can go wrong, said once for every door.

Each error carries its protocol code, its HTTP status and whether the same request may succeed later; the
message says what is allowed or what to do next.

    PeykError                      code  HTTP  temporary
    ├── BadRequest                  107   400
    │   ├── RequestTimeout          107   408
    │   ├── TooLarge                107   413
    │   ├── UnsupportedType         107   415
    │   ├── Unprocessable           107   422         it can be read, and means nothing
    │   ├── HeadersTooLarge         107   431
    │   └── UnknownVersion          107   505
    ├── Unauthorized                101   401
    │   └── TokenExpired            109   401
    ├── PermissionDenied            103   403
    ├── UnknownChannel              102   404
    ├── UnknownEvent                102   404
    ├── UnknownMethod               104   404
    ├── AlreadySubscribed           105   409
    ├── ChannelExists               105   409
    ├── NameTaken                   105   409
    ├── LimitExceeded               106   429
    ├── Unroutable                  108   422
    ├── Unrecoverable               112   410
    ├── NotAvailable                108   404         a part that is not switched on
    ├── CallFailed                  100   502         another service said no
    └── Temporary                   100   503   yes
        ├── TooManyRequests         111   429   yes   not done; slower
        ├── Unavailable             100   503   yes   not stored; try again
        ├── StorageFull             100   503   yes   not stored; make room
        ├── OutcomeUnknown          100   504   yes   may be stored; retry with the same idempotency key
        ├── ConnectionEnded         100   503   yes   the connection was ended for what was sent; not for ever again
        └── NoAnswer                100   504   yes   another service is silent; it may have acted

Codes are those of the Centrifugal client protocol; 107 and 112 are among them, so foreign SDKs understand them.
An error that is a limit reached names it in `limit`, which is how chat/metrics.py counts it.
"""


class PeykError(Exception):
    """An error a client is told about. `str(error)` is the message it reads."""

    code = 100
    status = 500
    temporary = False
    limit = ""
    retry_after = 0.0  # seconds; shown over HTTP

    def __str__(self) -> str:
        """A text that can be sent, even where the message quotes a lone surrogate of the client's."""
        return super().__str__().encode(errors="backslashreplace").decode()

    def saying(self, message: str) -> "PeykError":
        """This error with another message."""
        error = type(self).__new__(type(self), message)
        error.__dict__.update(self.__dict__)
        return error


class BadRequest(PeykError):
    code, status = 107, 400

    @classmethod
    def beyond(cls, limit: str, message: str) -> "BadRequest":
        error = cls(message)
        error.limit = limit
        return error


class TooLarge(BadRequest):
    status = 413
    limit = "message_bytes"


class RequestTimeout(BadRequest):
    status = 408
    limit = "handshake"


class UnsupportedType(BadRequest):
    status = 415


class Unprocessable(BadRequest):
    status = 422


class UnknownVersion(BadRequest):
    status = 505


class HeadersTooLarge(BadRequest):
    status = 431
    limit = "header_bytes"


class Unauthorized(PeykError):
    code, status = 101, 401


class TokenExpired(Unauthorized):
    code = 109


class PermissionDenied(PeykError):
    code, status = 103, 403

    @classmethod
    def foreign(cls, origin: str) -> "PermissionDenied":
        error = cls(f"pages of {origin[:100]} may not use this server; its operator can name them in ALLOWED_ORIGINS")
        error.limit = "origin"
        return error

    @classmethod
    def misnamed(cls, host: str, on_loopback: bool) -> "PermissionDenied":
        asked = host[:100] or "no name"
        if on_loopback:
            text = (
                f"this server answers to localhost, not to {asked}; its operator can name that in ALLOWED_HOSTS, a "
                "page of that origin in ALLOWED_ORIGINS, or the proxy before it in TRUSTED_PROXIES"
            )
        else:
            text = f"this server does not answer to {asked}; its operator can name that in ALLOWED_HOSTS"
        error = cls(text)
        error.limit = "host"
        return error


class UnknownChannel(PeykError):
    code, status = 102, 404

    @classmethod
    def named(cls, channel: str) -> "UnknownChannel":
        return cls(f"there is no channel {channel}; create it first")


class UnknownEvent(PeykError):
    code, status = 102, 404


class UnknownMethod(PeykError):
    code, status = 104, 404


class AlreadySubscribed(PeykError):
    code, status = 105, 409


class ChannelExists(PeykError):
    code, status = 105, 409


class NameTaken(PeykError):
    code, status = 105, 409


class LimitExceeded(PeykError):
    code, status = 106, 429

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message)
        self.limit = limit

    @classmethod
    def of_channels(cls, limit: int) -> "LimitExceeded":
        return cls(f"there are {limit} channels, as many as may be; delete one, or raise CHANNEL_LIMIT", "channels")

    @classmethod
    def of_new_channels(cls, who: str, limit: int, wait: int) -> "LimitExceeded":
        """`who` made `limit` channels and may make another in `wait` seconds."""
        minutes = -(-wait // 60)
        text = f"{who} makes at most {limit} new channels in an hour; use one that is there, or wait {minutes} min"
        error = cls(text, "new_channels")
        error.retry_after = wait
        return error


class Unroutable(PeykError):
    """Nobody takes what was sent."""

    code, status = 108, 422


class Unrecoverable(PeykError):
    code, status = 112, 410


class NotAvailable(PeykError):
    code, status = 108, 404


class CallFailed(PeykError):
    """Another service answered that it failed."""

    status = 502


class Temporary(PeykError):
    code, status, temporary = 100, 503, True


class TooManyRequests(Temporary):
    """Nothing was done: a rate is used up for `retry_after` seconds."""

    code, status = 111, 429

    def __init__(self, message: str, limit: str = "rate", retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.limit, self.retry_after = limit, retry_after

    @classmethod
    def slower(cls, what: str, wait: float) -> "TooManyRequests":
        return cls(f"too many {what}; wait {max(wait, 0.01):.2g} s, then go on more slowly", retry_after=wait)


class Unavailable(Temporary):
    """Nothing was stored: Redis is away or loading."""


class StorageFull(Temporary):
    """Nothing was stored: Redis or the log has no room."""


class OutcomeUnknown(Temporary):
    """The reply was lost: the message may or may not be stored."""

    status = 504


class ConnectionEnded(Temporary):
    """The server ended the connection and complained of what was sent: sent again, it may do so again."""


class NoAnswer(Temporary):
    """Another service gave no answer in time: it may or may not have acted."""

    status = 504
