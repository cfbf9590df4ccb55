"""Middleware of the service: access checks, limits on uploads, counters, and the log of requests."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from fastapi import HTTPException, Request
from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, Headers, MutableHeaders
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import Limits

RETRY_AFTER = '2'  # seconds
DRAIN_SECONDS = 5
CHARSETS = ('utf-8', 'utf8', 'us-ascii', 'ascii', 'latin-1', 'latin1', 'iso-8859-1')
FIELDS = 32  # largest number of fields in a form; the service has fewer
LOG = logging.getLogger('mmbirefnet.server')
_REQUEST_ID = re.compile(r'[\w.-]{1,64}', re.ASCII)


class Refusal(Exception):
    """The request is rejected."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Counters:
    """Counts of requests since the start."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.seconds = 0.0

    def text(self, gauges: dict[str, tuple[str, str, float]]) -> str:
        """Return all counts in the text format of Prometheus.

        Args:
            gauges: Further metrics by name: kind, help text, and value.
        """
        lines = [
            '# HELP mmbirefnet_requests_total Responses of /api/cut by status.',
            '# TYPE mmbirefnet_requests_total counter',
            *(f'mmbirefnet_requests_total{{status="{key}"}} {n}' for key, n in sorted(self.statuses.items())),
            '# HELP mmbirefnet_request_seconds Time from the head of a request to the end of its response.',
            '# TYPE mmbirefnet_request_seconds summary',
            f'mmbirefnet_request_seconds_sum {self.seconds:.6f}',
            f'mmbirefnet_request_seconds_count {sum(self.statuses.values())}',
        ]
        for name, (kind, text, value) in gauges.items():
            lines += [f'# HELP {name} {text}', f'# TYPE {name} {kind}', f'{name} {value:g}']
        return '\n'.join(lines) + '\n'


class Gate:
    """ASGI middleware that checks the origin of a request, gives it an ID, counts it and logs it.

    A page of another site could reach a service on this machine through a host name that resolves to 127.0.0.1 (DNS
    rebinding). Therefore, requests to a loopback address must use a loopback host name, and the ``Origin`` that a
    browser sends must be the service itself.

    Args:
        app: The next application.
        counters: Counters to update.
        hosts: Host names that requests may use; ``'*'`` for all. If empty, all are allowed, but only loopback names for
            connections to a loopback address.
        origins: Further origins whose pages may send requests, such as ``'https://example.org'``; ``'*'`` for all.
        api_key: Key that requests to the API must send.
    """

    def __init__(
        self,
        app: ASGIApp,
        counters: Counters,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        api_key: str | None = None,
    ) -> None:
        self.app, self.counters, self.api_key = app, counters, api_key
        self.hosts, self.origins = {host.lower() for host in hosts}, {origin.lower() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http':
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get('x-request-id', '')
        name = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex[:16]
        scope['mmbirefnet'] = {'id': name, 'held': []}
        start, status = time.monotonic(), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
                answer = MutableHeaders(scope=message)
                answer['X-Request-ID'] = name
                answer['X-Content-Type-Options'] = 'nosniff'
            await send(message)

        try:
            try:
                self._check(scope, headers)
            except Refusal as refusal:
                await refuse(refusal, scope, receive, send_on)
            else:
                await self.app(scope, receive, send_on)
        finally:
            for share in scope['mmbirefnet']['held']:
                share.release()
            if scope['path'] == '/api/cut' and scope['method'] == 'POST':
                seconds = time.monotonic() - start
                self.counters.statuses[status] += 1
                self.counters.seconds += seconds
                client = (scope.get('client') or ('-',))[0]
                LOG.info('%s %s %s %.3f s', name, client, status or 'disconnected', seconds)

    def _check(self, scope: Scope, headers: Headers) -> None:
        host = headers.get('host', '')  # browsers always send it
        name = _host_name(host)
        if self.hosts and '*' not in self.hosts and name not in self.hosts:
            raise Refusal(400, f'host {name!r:.99} is not allowed (--allowed-hosts)')
        server = (scope.get('server') or ('',))[0]
        if not self.hosts and host and _is_loopback(server) and not (name == 'localhost' or _is_loopback(name)):
            raise Refusal(400, f'host {name!r:.99} is not a name of this machine. Fix: allow it with --allowed-hosts')
        origin = headers.get('origin', '').lower()
        if (
            scope['method'] not in ('GET', 'HEAD', 'OPTIONS')
            and origin
            and '*' not in self.origins
            and origin not in self.origins
            and origin.partition('://')[2] != host.lower()
        ):
            raise Refusal(403, f'pages of {origin!r:.99} may not send requests to this service (--cors)')
        if self.api_key and scope['path'] in ('/api/cut', '/metrics') and scope['method'] != 'OPTIONS':
            kind, _, key = headers.get('authorization', '').partition(' ')
            key = key if kind.lower() == 'bearer' else headers.get('x-api-key', '')
            if not hmac.compare_digest(key.encode(), self.api_key.encode()):
                raise Refusal(401, 'an API key is needed: send it as Authorization: Bearer KEY')


def _host_name(host: str) -> str:
    """Name in a Host header, without port and brackets; '' if it is missing or invalid."""
    try:
        return urlsplit(f'//{host}').hostname or ''
    except ValueError:
        return ''


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Upload:
    """The body of one request."""

    def __init__(self) -> None:
        self.held = 0
        self.evicted = asyncio.get_running_loop().create_future()


class BoundUploads:
    """ASGI middleware that rejects uploads that are too large, too slow, or exceed the memory for uploads.

    If unfinished uploads fill that memory, the oldest of them is rejected.

    Args:
        app: The next application.
        limits: Limits on requests.
        is_full: Returns whether the queue is full. Uploads are then rejected at once.
    """

    def __init__(self, app: ASGIApp, limits: Limits, is_full: Callable[[], bool]) -> None:
        self.app, self.limits, self.is_full = app, limits, is_full
        self.held = 0
        self._arriving: dict[Upload, None] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope['type'] != 'http' or scope['method'] != 'POST':
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            self._check(headers)
        except Refusal as refusal:
            await refuse(refusal, scope, receive, send)
            return
        upload = Upload()
        self._arriving[upload] = None
        try:
            await self.app(scope, self._bounded(receive, upload), send)
        finally:
            self._arriving.pop(upload, None)
            self.held -= upload.held

    def _check(self, headers: Headers) -> None:
        if self.is_full():
            raise Refusal(429, 'busy: the queue is full, try again later')
        declared = headers.get('content-length', '0')
        if declared.isdecimal() and int(declared) > self.limits.upload_bytes:
            raise Refusal(413, self._too_large())
        # Starlette decodes form fields in this charset. Some of Python's decoders take quadratic time.
        charset = parse_options_header(headers.get('content-type', ''))[1].get(b'charset', b'utf-8')
        if charset.decode('latin-1').strip().lower().replace('_', '-') not in CHARSETS:
            raise Refusal(400, f'charset={charset.decode("latin-1")!r:.99}: forms must be in UTF-8 or Latin-1')

    def _too_large(self) -> str:
        return f'too large: at most {self.limits.upload_bytes} bytes are accepted'

    def _bounded(self, receive: Receive, upload: Upload) -> Receive:
        end = time.monotonic() + self.limits.upload_seconds
        received = 0

        async def bounded() -> Message:
            nonlocal received
            if upload not in self._arriving:
                return await receive()
            coming = asyncio.ensure_future(receive())
            try:
                await asyncio.wait(
                    {coming, upload.evicted},
                    timeout=max(0.0, end - time.monotonic()),
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                if not coming.done():
                    coming.cancel()
            if upload.evicted.done():
                raise HTTPException(429, 'busy: too many uploads, try again later', {'Retry-After': RETRY_AFTER})
            if not coming.done():
                seconds = self.limits.upload_seconds
                raise HTTPException(408, f'too slow: the upload must arrive within {seconds:g} s')
            message = coming.result()
            size = len(message.get('body', b''))
            received += size
            if received > self.limits.upload_bytes:
                raise HTTPException(413, self._too_large())
            self._make_room(size, upload)
            upload.held += size
            self.held += size
            if not message.get('more_body', False):
                self._arriving.pop(upload, None)
            return message

        return bounded

    def _make_room(self, size: int, upload: Upload) -> None:
        while self.held + size > self.limits.uploads:
            first = next(iter(self._arriving))
            if first is upload:
                raise HTTPException(429, 'busy: too many uploads, try again later', {'Retry-After': RETRY_AFTER})
            del self._arriving[first]
            self.held -= first.held
            first.held = 0
            first.evicted.set_result(None)


class FormInMemory(Request):
    """A request whose form stays in memory; Starlette would write files above 1 MiB to disk."""

    async def form(self, **_) -> FormData:
        kind = parse_options_header(self.headers.get('content-type', ''))[0]
        if kind != b'multipart/form-data':
            # Other types contain no files. Parsing empty pairs (&&&…) would block the event loop for 0.25 s per MiB.
            async for _ in self.stream():
                pass
            return FormData()
        parser = MultiPartParser(self.headers, self.stream(), max_files=FIELDS, max_fields=FIELDS)
        parser.spool_max_size = 2**63 - 1
        try:
            return await parser.parse()
        except MultiPartException as error:
            if 'exceeded maximum size' in error.message:
                raise HTTPException(422, FILE_HINT) from None
            raise HTTPException(400, error.message) from None


FILE_HINT = 'file: send the image as a file, as curl -F file=@photo.jpg does'


class FormRoute(APIRoute):
    """A route whose requests keep their form in memory."""

    def get_route_handler(self) -> Callable:
        handler = super().get_route_handler()

        async def handle(request: Request):
            return await handler(FormInMemory(request.scope, request.receive))

        return handle


async def refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    """Reject a request after reading its body: most clients ignore a response while they are still sending."""

    async def drain() -> None:
        while (await receive()).get('more_body', False):
            pass

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(drain(), DRAIN_SECONDS)
    headers = {'Connection': 'close'}
    if refusal.status in (429, 503):
        headers['Retry-After'] = RETRY_AFTER
    if refusal.status == 401:
        headers['WWW-Authenticate'] = 'Bearer'
    await JSONResponse({'detail': refusal.reason}, refusal.status, headers)(scope, receive, send)
