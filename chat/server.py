"""The server: a node behind uvicorn, with the page, the HTTP routes and the socket."""

import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from chat.api import on_error
from chat.errors import PeykError
from chat.node import Node
from chat.routes import routes
from chat.settings import ServerSettings
from chat.websocket import SocketProtocol, endpoint
from pipeline.resp import FAILURES

WEB = Path(__file__).parent / "web"
_CSP = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"


async def page(request: Request) -> Response:
    return FileResponse(WEB / "index.html", headers={"content-security-policy": _CSP, "cache-control": "no-cache"})


class Assets(StaticFiles):
    """The page's files; asked for again each time (they have ETags), so that an upgrade never mixes old and new."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


def application(settings: ServerSettings) -> Starlette:
    """The ASGI application. Its lifespan opens and closes the node."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with Node(settings, "serve") as node:
            app.state.node = node
            print(
                f"{node.redis_server.describe()}\nPeyk at http://{settings.http_host}:{settings.http_port}", flush=True
            )
            yield

    kinds = (PeykError, *FAILURES, 404, 405, 500)
    return Starlette(
        routes=[
            Route("/", page),
            WebSocketRoute("/connection/websocket", endpoint),
            *routes(),
            Mount("/web", Assets(directory=WEB)),
        ],
        exception_handlers=dict.fromkeys(kinds, on_error),
        lifespan=lifespan,
    )


def serve(settings: ServerSettings) -> None:
    """Run until SIGTERM or SIGINT; clients are told to reconnect, and what is in hand is finished."""
    _raise_file_limit()
    SocketProtocol.high_water = settings.high_water
    SocketProtocol.reader_timeout = settings.reader_timeout
    config = uvicorn.Config(
        application(settings),
        host=settings.http_host,
        port=settings.http_port,
        loop="uvloop",
        http="httptools",
        ws=SocketProtocol,
        ws_max_size=settings.frame_limit,
        ws_per_message_deflate=False,  # memory per connection, and compression bombs
        ws_ping_interval=None,  # the protocol's own pings do it, on one timer
        timeout_graceful_shutdown=settings.shutdown_timeout,
        access_log=False,
        log_level="warning",
        server_header=False,
    )
    uvicorn.Server(config).run()


def _raise_file_limit() -> None:
    """A connection is a file: use all that the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
