"""The server: a node behind uvicorn, with the page, the HTTP routes and the socket."""

import gc
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.routing import Route, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from chat.assets import Assets
from chat.doors import check_open
from chat.errors import PeykError
from chat.gate import Gate
from chat.handshake import NODE, Handshake
from chat.headers import Cors, secured
from chat.http_connection import RequestProtocol
from chat.node import Join, Node, alone
from chat.origin import listed
from chat.requests import on_error
from chat.routes import routes, with_slash
from chat.settings import ServerSettings
from chat.websocket import PATH, elsewhere, endpoint
from pipeline.resp import FAILURES
from pipeline.system import raise_file_limit
from redis_config import ConfigError

logger = logging.getLogger(__name__)

_GARBAGE = 10_000  # objects made and not freed before the collector looks


class Application(Starlette):
    """Starlette, with security headers; and a start that a setting forbids is explained in a line, not a traceback."""

    refusal = ""
    cors = Cors()
    worker = True  # one process of several: its line is uvicorn's to write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def explain(message: Message, send: Send = send) -> None:
            if message["type"] == "lifespan.startup.failed" and self.refusal:
                message["message"] = f"peyk: {self.refusal}" if self.worker else ""
            await send(message)

        if scope["type"] == "lifespan":
            send = explain
        elif scope["type"] == "http":
            send = secured(send, self.cors.headers(scope["method"], Headers(scope=scope)))
        await super().__call__(scope, receive, send)


Beside = Callable[[Node], AbstractAsyncContextManager[None]]


def application(settings: ServerSettings, join: Join = alone, beside: Beside | None = None) -> Application:
    """The ASGI application. Its lifespan opens and closes the node; what is `beside` it lives within."""

    @asynccontextmanager
    async def lifespan(app: Application) -> AsyncIterator[dict[str, Node]]:
        try:
            async with Node(settings, "serve", join) as node, beside(node) if beside else nullcontext():
                _calm_collector()
                where = f"http://{settings.http_host}:{settings.http_port}"
                print(f"{node.redis_server.describe()}\nPeyk at {where}", flush=True)
                yield {NODE: node}
        except ConfigError as error:
            app.refusal = str(error)
            raise

    assets = Assets()
    kinds = (PeykError, *FAILURES, 404, 405, 500)
    socket_route = WebSocketRoute(PATH, endpoint)
    app = Application(
        routes=[
            *routes(),
            with_slash(socket_route),
            Route("/", assets.page),
            Route("/web/{name}", assets.file),
            WebSocketRoute("/{path:path}", elsewhere),
        ],
        exception_handlers=dict.fromkeys(kinds, on_error),
        middleware=[Middleware(Gate, settings=settings)],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.cors = Cors(listed(settings.allowed_origins), settings.cors_cookies)
    return app


def serve(settings: ServerSettings, join: Join, worker: str, beside: Beside | None = None) -> None:
    """Run until SIGTERM or SIGINT; clients are told to reconnect, and what is in hand is finished.

    `worker` names the function (module:name) that makes the application of one process of several; with something
    `beside` the node there is one process.
    """
    check_open(settings)
    if not (settings.on_loopback or settings.allowed_hosts):
        logger.warning("ALLOWED_HOSTS is empty: this server answers to any name; set it to those it is known by")
    raise_file_limit()
    single = settings.http_workers == 1 or beside is not None
    app = application(settings, join, beside)
    config = uvicorn.Config(
        app if single else worker,
        factory=not single,
        workers=1 if single else settings.http_workers,
        host=settings.http_host,
        port=settings.http_port,
        loop="auto",
        http=RequestProtocol,
        forwarded_allow_ips=settings.trusted_proxies,
        ws=Handshake,
        ws_max_size=settings.frame_limit,
        ws_per_message_deflate=False,  # memory per connection, and compression bombs
        ws_ping_interval=None,  # the protocol's own pings do it, on one timer
        timeout_keep_alive=settings.keep_alive_timeout,
        timeout_graceful_shutdown=settings.shutdown_timeout,
        timeout_worker_healthcheck=settings.worker_timeout,
        access_log=False,
        log_config=None,  # its lines are ours, so that none is forged
        log_level="warning",
        server_header=False,
    )
    sockets = _bound(settings.http_host, settings.http_port)
    if single:
        _run(uvicorn.Server(config), app, sockets)
        return
    os.environ.update(HTTP_HOST=settings.http_host, HTTP_PORT=str(settings.http_port))
    supervisor = Multiprocess(config, sockets=sockets)
    supervisor.run()
    if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
        sys.exit(1)


def _run(server: uvicorn.Server, app: Application, sockets: list[socket.socket]) -> None:
    """Run this one process. Raises ConfigError for a start that a setting forbids."""
    app.worker = False
    logging.getLogger("uvicorn.error").addFilter(lambda record: not app.refusal)  # it says that it exits, too
    try:
        server.run(sockets)
    except SystemExit:
        if app.refusal:
            raise ConfigError(app.refusal) from None
        raise


def _bound(host: str, port: int) -> list[socket.socket]:
    """The addresses of `host`, taken before anything starts. Raises ConfigError."""
    sockets = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            sockets.append(one := socket.socket(family, kind, protocol))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)
            one.set_inheritable(True)
    except OSError as error:
        for one in sockets:
            one.close()
        remedy = "end what listens there, or set another"
        raise ConfigError(f"cannot listen on HTTP_HOST={host} HTTP_PORT={port}: {error.strerror}; {remedy}") from None
    return sockets


def _calm_collector() -> None:
    """What stands when the server starts stays; garbage in circles is looked for seldom, since no message makes any.

    By Python's own habit it is looked for all the time, and through everything: a tenth of the CPU, and a p99 twice as
    long (S2).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)
