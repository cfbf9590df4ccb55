"""Bounds on what requests may take: bytes, seconds, places in the queue."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_AFTER = '2'  # seconds
DRAIN_SECONDS = 5


@dataclass(frozen=True)
class Limits:
    """What the service takes.

    Attributes:
        upload_bytes: Largest body of a request.
        upload_seconds: Time within which a body has to arrive.
        megapixels: Largest image.
        input_size: Longest side of the model's input that may be asked for, in pixels.
        queue: Requests under way at once, all others are answered 429.

    Raises:
        ValueError: One of them is not positive.
    """

    upload_bytes: int = 32 * 2**20
    upload_seconds: float = 30.0
    megapixels: float = 50.0
    input_size: int = 2048
    queue: int = 8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f'{name}={value!r}, must be more than 0')


@dataclass
class Load:
    """Requests under way."""

    under_way: int = 0


class BoundRequests:
    """ASGI middleware: refuses POST requests beyond the queue, and bodies that are too large or too slow.

    Whoever is let in keeps a place until the answer is handed over; so memory is bounded by queue x upload_bytes.
    """

    def __init__(self, app: ASGIApp, limits: Limits, load: Load) -> None:
        self.app, self.limits, self.load = app, limits, load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http' or scope['method'] != 'POST':
            await self.app(scope, receive, send)
        elif self.load.under_way >= self.limits.queue:
            await _refuse(429, 'busy: the queue is full, try again later', scope, receive, send)
        elif (declared := Headers(scope=scope).get('content-length', '0')).isdigit() and (
            int(declared) > self.limits.upload_bytes
        ):
            await _refuse(413, self._too_large(), scope, receive, send)
        else:
            self.load.under_way += 1
            try:
                await self.app(scope, self._bounded(receive), send)
            finally:
                self.load.under_way -= 1

    def _too_large(self) -> str:
        return f'too large: at most {self.limits.upload_bytes} bytes are taken'

    def _bounded(self, receive: Receive) -> Receive:
        end = time.monotonic() + self.limits.upload_seconds
        received, complete = 0, False

        async def bounded() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
            except asyncio.TimeoutError as error:
                seconds = self.limits.upload_seconds
                raise HTTPException(408, f'too slow: the upload has to arrive within {seconds:g} s') from error
            received += len(message.get('body', b''))
            complete = not message.get('more_body', False)
            if received > self.limits.upload_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return bounded


async def _refuse(status: int, reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer after the body was read and dropped: most clients see no answer while they are still sending."""

    async def drain() -> None:
        while (await receive()).get('more_body', False):
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(drain(), DRAIN_SECONDS)
    headers = {'Connection': 'close'} | ({'Retry-After': RETRY_AFTER} if status == 429 else {})
    await JSONResponse({'detail': reason}, status, headers)(scope, receive, send)
