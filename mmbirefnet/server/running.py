"""Run the service with uvicorn, with limits on connections that uvicorn lacks."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from functools import partial

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONNECTIONS = 128
BACKLOG = 24  # connections that the event loop accepts in one iteration
ROUNDS = 3  # iterations in which it may accept others before a surplus connection is closed
FILES = 64  # file descriptors reserved for everything else than connections
HEADER_SECONDS = 10.0
ANSWER_SECONDS = 120.0  # time limit for a client to read its response
STALL_SECONDS = 20.0  # time limit for each part of the response
PART = 2**16  # bytes per part of the response
SHUTDOWN_SECONDS = 300
LOG_SECONDS = 60.0  # time between two equal warnings in the log


class Connections:
    """ASGI middleware and connection factory that closes surplus, slow and stalled connections.

    Args:
        app: The application.
        most: Largest number of connections. A new one beyond it closes the one that has waited longest for its request.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most
        self._open: dict[tuple, Connection] = {}  # by the address of the client; the longest waiting first

    def make(self, protocol: type[asyncio.Protocol], **kwargs) -> Connection:
        """Return a connection that passes its data to ``protocol(**kwargs)``."""
        return Connection(self, protocol(**kwargs))

    def add(self, connection: Connection) -> None:
        """Register a connection."""
        if len(self._open) >= self.most:
            waiting = (other for other in self._open.values() if other.is_waiting)
            if (longest := next(waiting, None)) is None:
                connection.transport.abort()
                return
            longest.transport.abort()
            self.remove(longest)
        self._open[connection.client] = connection

    def remove(self, connection: Connection) -> None:
        """Unregister a connection."""
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
                    await asyncio.sleep(0)  # lets uvicorn notice the abort and drop the rest
                    return

        try:
            await self.app(scope, receive_on, send_on)
        finally:
            if self._open.get(connection.client) is connection:
                self._open[connection.client] = self._open.pop(connection.client)
                connection.wait()


class Connection(asyncio.Protocol):
    """Passes all data to another protocol, and closes if the headers of a request do not arrive in time."""

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
        """Start the time limit for the headers of a request."""
        self.stop_timer()
        self.is_waiting = True
        self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def stop_timer(self) -> None:
        """Stop the time limit: the headers have arrived."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stop_waiting(self) -> None:
        """Mark that the whole request has arrived."""
        self.stop_timer()
        self.is_waiting = False


class LimitWarnings(logging.Filter):
    """Passes each warning at most once in ``LOG_SECONDS``, with the number of suppressed ones.

    uvicorn logs a warning for every malformed request, so clients could fill the log.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, tuple[float, int]] = {}  # message: time of the last log line, number suppressed since

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        now, message = time.monotonic(), record.getMessage()
        last, left_out = self._last.get(record.msg, (-LOG_SECONDS, 0))
        if now - last < LOG_SECONDS:
            self._last[record.msg] = last, left_out + 1
            return False
        self._last[record.msg] = now, 0
        if left_out:
            record.msg, record.args = '%s (and %d more since the last such line)', (message, left_out)
        return True


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes a free one.

    Raises:
        OSError: If the address is in use or does not belong to this machine.
    """
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        raise OSError(f'{host}:{port}: cannot listen there ({error})') from error


def configure(app: FastAPI) -> uvicorn.Config:
    """Configure uvicorn for the service."""
    connections = Connections(app, _most_connections())
    config = uvicorn.Config(
        connections,
        http='h11',
        ws='none',
        lifespan='on',
        proxy_headers=False,  # connections are identified by the address of the client
        backlog=BACKLOG,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
        log_level='warning',
        log_config=None,  # uvicorn's default would close the log files of other modules
    )
    config.load()
    logger = logging.getLogger('uvicorn.error')
    logger.filters = [each for each in logger.filters if not isinstance(each, LimitWarnings)]  # of an earlier service
    logger.addFilter(LimitWarnings())
    config.http_protocol_class = partial(connections.make, config.http_protocol_class)
    return config


def _most_connections() -> int:
    """Number of connections that the limit on file descriptors allows; asyncio floods the log when they run out."""
    try:
        import resource
    except ImportError:  # Windows
        return CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reserved = ROUNDS * BACKLOG + FILES
    needed = CONNECTIONS + reserved
    if soft < needed and soft != resource.RLIM_INFINITY:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return CONNECTIONS if soft == resource.RLIM_INFINITY else max(8, min(CONNECTIONS, soft - reserved))


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; requests that were accepted by then are finished first."""
    uvicorn.Server(configure(app)).run(sockets=[listener])
