"""The table of HTTP operations: what serves them, and /openapi.json, come from it."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute

from chat import api, event_api, rpc_api
from chat.bodies import TEXT
from chat.calls import ACTION_LIMIT
from chat.models import NAME_LIMIT, NAME_RULE, Channel
from chat.moderation import Role
from chat.protocol import KEY_LIMIT, OFFSET_LIMIT
from chat.requests import JSON, NDJSON, Failure, answer
from chat.rpc import NewChannel
from chat.version import VERSION

AnyRoute = TypeVar("AnyRoute", Route, WebSocketRoute)
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Operation:
    """One method of one path. `replies` maps a status to the type of its JSON body (None: empty)."""

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    replies: dict[int, Any]
    body: Any = None
    query: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    needs_body: bool = True
    also: tuple[str, ...] = ()  # other media types of its body


_CHANNEL, _MESSAGES = "/api/channels/{id}", "/api/channels/{id}/messages"
_EVENTS = "/api/events"
_SUBSCRIBER, _ROLE = "/api/channels/{id}/subscribers/{user}", "/api/channels/{id}/roles/{user}"
_PATTERN = r"^[\p{L}\p{M}\p{Nd}_\-][\p{L}\p{M}\p{Nd}_.\-]*$"
_NAME = {"type": "string", "pattern": _PATTERN, "maxLength": NAME_LIMIT, "description": f"{NAME_RULE}."}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "id": _NAME,
    "user": _NAME,
    "action": {"type": "string", "pattern": r"^[^\p{C}/]+$", "maxLength": ACTION_LIMIT, "example": "configs"},
    "after": {"type": "integer", "minimum": 0, "maximum": OFFSET_LIMIT},
    "before": {"type": "integer", "minimum": 1, "maximum": OFFSET_LIMIT},
    "limit": {"type": "integer", "minimum": 0, "description": "At most PAGE_LIMIT."},
    "event": {"type": "string", "minLength": 1, "description": "An event's id."},
    "channel": _NAME,
    "type": {"type": "string", "description": "Only events of this type."},
    "since": {"type": "string", "description": "Unix milliseconds, or an ISO 8601 time."},
    "/api/channels after": {"type": "string", "description": "Only channels behind this id."},
    "prefix": {"type": "string", "description": "Only channels whose id begins so."},
    "Idempotency-Key": {"type": "string", "maxLength": KEY_LIMIT},
}
OPERATIONS = (
    Operation("GET", "/health", api.get_health, "The process is up.", {200: api.Health}),
    Operation("GET", "/ready", api.get_ready, "Messages move; if not, which part.", {200: api.Health, 503: api.Health}),
    Operation("GET", "/api/session", api.get_session, "Who asks.", {200: api.Who}),
    Operation(
        "POST",
        "/api/session",
        api.open_session,
        "Sign in with a token: it goes into a cookie.",
        {201: api.Who},
        api.NewSession,
    ),
    Operation(
        "POST", "/api/accounts", api.register, "Register, and sign in (REGISTRATION).", {201: api.Who}, api.NewAccount
    ),
    Operation("PUT", "/api/accounts/password", api.change_password, "Change it.", {201: api.Who}, api.NewPassword),
    Operation("DELETE", "/api/session", api.close_session, "Sign out: the cookie goes.", {204: None}),
    Operation(
        "GET",
        "/api/channels",
        api.list_channels,
        "The channels one may see, by id, a page at a time: the header Link leads to the next.",
        {200: list[Channel]},
        query=("after", "limit", "prefix"),
    ),
    Operation("POST", "/api/channels", api.create_channel, "Make a channel.", {201: Channel}, NewChannel),
    Operation("GET", _CHANNEL, api.get_channel, "One channel.", {200: Channel}),
    Operation("PATCH", _CHANNEL, api.update_channel, "Describe it.", {200: Channel}, api.ChangedChannel),
    Operation("DELETE", _CHANNEL, api.delete_channel, "Remove it with its history.", {204: None}),
    Operation("GET", _CHANNEL + "/subscribers", api.list_subscribers, "User ids.", {200: list[str]}),
    Operation("GET", _SUBSCRIBER, api.get_subscriber, "Whether a user belongs.", {200: api.Subscriber}),
    Operation(
        "PUT", _SUBSCRIBER, api.put_subscriber, "Make a user a subscriber.", {200: api.Subscriber, 201: api.Subscriber}
    ),
    Operation("DELETE", _SUBSCRIBER, api.delete_subscriber, "End a subscription.", {204: None}),
    Operation("GET", _CHANNEL + "/roles", api.list_roles, "Roles that were given.", {200: list[Role]}),
    Operation("PUT", _ROLE, api.put_role, "Give a user a role.", {200: Role}, api.GivenRole),
    Operation("DELETE", _ROLE, api.delete_role, "Take the role away.", {204: None}),
    Operation(
        "POST",
        _MESSAGES,
        api.post_message,
        "Publish. 201: in the stream; 200: this Idempotency-Key was there already.",
        {200: api.Published, 201: api.Published},
        api.NewMessage,
        headers=("Idempotency-Key",),
        also=(TEXT,),
    ),
    Operation(
        "GET",
        _MESSAGES,
        api.get_messages,
        "History: a page, NDJSON lines, or with Accept: text/event-stream a replay, live while the token lasts.",
        {200: api.History},
        query=("after", "before", "since", "limit"),
        headers=("Last-Event-ID",),
    ),
    Operation(
        "POST",
        _EVENTS,
        event_api.post_events,
        "Queue an event, or a batch (an array, or NDJSON). 202: it is safe, and comes into its channel.",
        {202: event_api.Queued | list[event_api.Queued]},
        event_api.NewEvent | list[event_api.NewEvent],
        also=(NDJSON,),
    ),
    Operation(
        "GET",
        _EVENTS,
        event_api.list_events,
        "The newest events of a channel, none from before it was deleted and made again.",
        {200: list[event_api.StoredEvent]},
        query=("channel", "type", "limit"),
    ),
    Operation(
        "GET",
        "/api/events/{event}",
        event_api.get_event,
        "One event of `channel`; without one, of the first channel that has the id and that you may read.",
        {200: event_api.StoredEvent},
        query=("channel",),
    ),
    Operation(
        "POST",
        "/api/rpc/{action}",
        rpc_api.call,
        "Call another service; the body is its data. 504: nobody answered within 5 s.",
        {200: rpc_api.Answer},
        msgspec.Raw,
        needs_body=False,
    ),
)


def routes() -> list[Route]:
    """The Starlette routes of the table, and the table itself as OpenAPI."""

    async def openapi(request: Request) -> Response:
        return answer(_DOCUMENT)

    paths: dict[str, dict[str, Endpoint]] = {_MESSAGES: {}, _EVENTS: {}}  # most ask for these: they are looked at first
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = operation.endpoint
    table = [_route(path, methods) for path, methods in paths.items()]
    return [*table, with_slash(Route("/openapi.json", openapi)), with_slash(Route("/metrics", api.get_metrics))]


def _route(path: str, methods: dict[str, Endpoint]) -> Route:
    """One route for all methods of a path, so that a 405 names them all in its Allow header."""

    async def dispatch(request: Request) -> Response:
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    if path.endswith("/{event}"):  # ids may hold slashes, and end with one
        return Route(path.replace("{event}", "{event:path}"), dispatch, methods=list(methods))
    return with_slash(Route(path, dispatch, methods=list(methods)))


def with_slash(route: AnyRoute) -> AnyRoute:
    """The route, which serves its path with a slash at the end as well. A redirect would lose what was posted."""
    route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + "/?$")
    return route


def document() -> dict[str, Any]:
    """The OpenAPI 3.1 description of the table."""
    kinds: list[Any] = [Failure]
    for operation in OPERATIONS:
        kinds += [kind for kind in (operation.body, *operation.replies.values()) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(map(str, kinds), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schema_of)
    info = {"title": "Peyk", "version": VERSION, "description": f"A name has {NAME_RULE}."}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": components}}


def _schema(path: str, name: str) -> dict[str, Any]:
    """What a parameter may be; one name may be another thing elsewhere."""
    return _PARAMETERS.get(f"{path} {name}") or _PARAMETERS.get(name, {"type": "string"})


def _operation(operation: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    def content(kind: Any) -> dict[str, Any]:
        return {"content": {JSON: {"schema": schema_of[str(kind)]}}}

    places = [("path", name) for name in ("id", "user", "event", "action") if f"{{{name}}}" in operation.path]
    places += [("query", name) for name in operation.query] + [("header", name) for name in operation.headers]
    parameters = [
        {"in": place, "name": name, "required": place == "path", "schema": _schema(operation.path, name)}
        for place, name in places
    ]
    responses: dict[str, Any] = {
        str(status): {"description": operation.summary, **({} if kind is None else content(kind))}
        for status, kind in operation.replies.items()
    }
    responses["default"] = {"description": "What went wrong and what to do.", **content(Failure)}
    result: dict[str, Any] = {"summary": operation.summary, "parameters": parameters, "responses": responses}
    if operation.body is not None:
        result["requestBody"] = {"required": operation.needs_body, **content(operation.body)}
        result["requestBody"]["content"] |= {kind: {"schema": {"type": "string"}} for kind in operation.also}
    return result


_DOCUMENT = document()
