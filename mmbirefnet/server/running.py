"""Runs the service with uvicorn, with bounds on connections that uvicorn itself does not have."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONNECTIONS = 128
BACKLOG = 32  # connections that the event loop accepts at once
FILES = 64  # descriptors that everything but connections may need
HEADER_SECONDS = 10.0
ANSWER_SECONDS = 120.0  # within which a client must read its answer
STALL_SECONDS = 20.0  # and each part of it
PART = 2**16  # bytes
SHUTDOWN_SECONDS = 300


class Connections:
    """ASGI middleware and factory of connections: bounds their number, slow heads, and answers that are not read.

    Args:
        app: The application.
        most: Connections at a time. One more ends the one that has waited longest for its request to arrive.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most
        self._open: dict[tuple, Connection] = {}  # by the client's address; those that wait longest come first

    def make(self, protocol: type[asyncio.Protocol], **kwargs) -> Connection:
        """A connection whose HTTP is spoken by ``protocol(**kwargs)``."""
        return Connection(self, protocol(**kwargs))

    def add(self, connection: Connection) -> None:
        """Take in a connection."""
        if len(self._open) >= self.most:
            waiting = (other for other in self._open.values() if other.is_waiting)
            if (longest := next(waiting, None)) is None:
                connection.transport.abort()
                return
            longest.transport.abort()
            self.remove(longest)
        self._open[connection.client] = connection

    def remove(self, connection: Connection) -> None:
        """Forget a connection."""
        connection.stop_waiting()
        if self._open.get(connection.client) is connection:
            del self._open[connection.client]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = self._open.get(scope.get('client'))
        if scope['type'] != 'http' or connection is None:
            await self.app(scope, receive, send)
            return
        connection.stop_timer()  # the application bounds the time for the body
        end = None

        async def receive_on() -> Message:
            message = await receive()
            if not message.get('more_body', False):
                connection.stop_waiting()
            return message

        async def send_on(message: Message) -> None:
            nonlocal end
            end = end or connection.loop.time() + ANSWER_SECONDS
            body, more = message.get('body', b''), message.get('more_body', False)
            for start in range(0, max(1, len(body)), PART):
                part = message
                if len(body) > PART:
                    is_last = start + PART >= len(body)
                    part = message | {'body': body[start : start + PART], 'more_body': more or not is_last}
                seconds = min(STALL_SECONDS, end - connection.loop.time())
                try:
                    await asyncio.wait_for(send(part), max(0.0, seconds))
                except asyncio.TimeoutError:
                    connection.transport.abort()
                    await asyncio.sleep(0)  # uvicorn learns of it, and drops what else is sent
                    return

        try:
            await self.app(scope, receive_on, send_on)
        finally:
            if self._open.get(connection.client) is connection:
                self._open[connection.client] = self._open.pop(connection.client)
                connection.wait()


class Connection(asyncio.Protocol):
    """Hands everything to another protocol, and closes when the head of a request does not arrive in time."""

    transport: asyncio.Transport

    def __init__(self, connections: Connections, protocol: asyncio.Protocol) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_waiting = False
        self.client: tuple = ()
        self._connections, self._protocol = connections, protocol
        self._timer: asyncio.TimerHandle | None = None
        self.data_received = protocol.data_received
        self.eof_received = protocol.eof_received
        self.pause_writing = protocol.pause_writing
        self.resume_writing = protocol.resume_writing

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.client = tuple(transport.get_extra_info('peername') or ())[:2]
        self._protocol.connection_made(transport)
        self.wait()
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.remove(self)
        self._protocol.connection_lost(error)

    def wait(self) -> None:
        """From now on the head of a request has to arrive."""
        self.stop_timer()
        self.is_waiting = True
        self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def stop_timer(self) -> None:
        """The head of a request has arrived."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stop_waiting(self) -> None:
        """All of a request has arrived."""
        self.stop_timer()
        self.is_waiting = False


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes a free one.

    Raises:
        OSError: If the address is in use or not of this machine; the message names it.
    """
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise OSError(f'{host}:{port}: cannot listen there ({error})') from error


def configure(app: FastAPI) -> uvicorn.Config:
    """How uvicorn runs the service."""
    connections = Connections(app, _most_connections())
    config = uvicorn.Config(
        connections,
        http='h11',
        ws='none',
        lifespan='on',
        proxy_headers=False,  # connections are known by the client's address
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
        log_level='warning',
        log_config=None,  # uvicorn's own closes the log files of everything else
    )
    config.load()
    config.http_protocol_class = partial(connections.make, config.http_protocol_class)
    return config


def _most_connections() -> int:
    """As many as there are file descriptors for: asyncio floods the log when they run out."""
    try:
        import resource
    except ImportError:  # Windows
        return CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS + BACKLOG + FILES
    if soft < needed and soft != resource.RLIM_INFINITY:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(CONNECTIONS, soft - BACKLOG - FILES))


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; requests that were accepted by then are finished first."""
    uvicorn.Server(configure(app)).run(sockets=[listener])
