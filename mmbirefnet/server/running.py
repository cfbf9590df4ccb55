"""Runs the service with uvicorn, with the time limits that uvicorn itself does not have."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 128
HEADER_SECONDS = 10.0
ANSWER_SECONDS = 120.0  # within which a client has to take its answer
SHUTDOWN_SECONDS = 300


class ImpatientProtocol(H11Protocol):
    """Closes connections whose request's head does not arrive, or whose answer is not taken, in time."""

    head_timer: asyncio.TimerHandle | None = None
    answer_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel('head_timer')
        elif self.head_timer is None:
            self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._cancel('answer_timer')
        self.answer_timer = self.loop.call_later(ANSWER_SECONDS, self._abort_unless_taken)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel('head_timer')
        self._cancel('answer_timer')
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self.head_timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _abort_unless_taken(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _cancel(self, name: str) -> None:
        timer = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OSError: The address is in use or not of this machine; the message names it.
    """
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except (OSError, OverflowError) as error:
        raise OSError(f'{host}:{port}: cannot listen there ({error})') from error


def configure(app: FastAPI) -> uvicorn.Config:
    """How uvicorn runs the service."""
    return uvicorn.Config(
        app,
        http=ImpatientProtocol,
        ws='none',
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        server_header=False,
        log_level='warning',
        log_config=None,  # uvicorn's own closes the log files of everything else
    )


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; what was accepted by then is finished first."""
    uvicorn.Server(configure(app)).run(sockets=[listener])
