"""Read files from URLs, with limits that make it safe for untrusted URLs."""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import time
import urllib.error
import urllib.request

from mmbirefnet.version import __version__

MAX_BYTES = 64 * 2**20
SECONDS = 30.0


def is_url(source: object) -> bool:
    """Whether a value is a string that begins with ``http://`` or ``https://``."""
    return isinstance(source, str) and bool(re.match('https?://', source, re.IGNORECASE))


def has_scheme(source: object) -> bool:
    """Whether a value is a string that begins with the scheme of any URL, such as ``ftp://``."""
    return isinstance(source, str) and re.match(r'[a-z][a-z0-9+.-]+://', source, re.IGNORECASE) is not None


def read_url(url: str, *, max_bytes: int = MAX_BYTES, seconds: float = SECONDS, allow_private: bool = False) -> bytes:
    """Read a file from a URL.

    Args:
        url: ``http://`` or ``https://``; redirects are followed to these only.
        max_bytes: Largest file, in bytes.
        seconds: Time limit for the whole download.
        allow_private: Whether to allow addresses that are not public, such as this machine, its network, and metadata
            services of clouds. Each connection is checked, also after redirects. Proxies from the environment are used
            only if this is set, because the address behind a proxy cannot be checked.

    Raises:
        ValueError: If it is another kind of URL, or the file is larger than ``max_bytes``.
        PermissionError: If the address is not public, and ``allow_private`` is false.
        OSError: If the file cannot be read.
    """
    if not is_url(url):
        raise ValueError(f'{url}: not a URL that begins with http:// or https://')
    deadline = time.monotonic() + seconds
    request = urllib.request.Request(url, headers={'User-Agent': f'mmbirefnet/{__version__}'})
    try:
        with _opener(allow_private).open(request, timeout=seconds) as response:
            return _read(response, url, max_bytes, deadline)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f'{url}: cannot be read: HTTP {error.code} {error.reason}') from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, PermissionError):
            raise PermissionError(f'{url}: {error.reason}') from error
        raise OSError(f'{url}: cannot be read: {error.reason}') from error
    except (TimeoutError, http.client.HTTPException, UnicodeError) as error:
        raise OSError(f'{url}: cannot be read: {error or type(error).__name__}') from error


def _read(response: http.client.HTTPResponse, url: str, max_bytes: int, deadline: float) -> bytes:
    too_large = f'{url}: larger than the limit of {max_bytes} bytes'
    if (response.length or 0) > max_bytes:
        raise ValueError(too_large)
    content = bytearray()
    while block := response.read1(1 << 16):
        content += block
        if len(content) > max_bytes:
            raise ValueError(too_large)
        if time.monotonic() > deadline:
            raise TimeoutError('it takes too long')
    if response.length:  # number of missing bytes
        raise OSError(f'{url}: cut off after {len(content)} bytes')
    return bytes(content)


def _connect_to_public(address: tuple[str, int], timeout=None, source_address=None) -> socket.socket:
    """Like ``socket.create_connection``, but connects to the checked address without a second DNS lookup."""
    found = [info[4] for info in socket.getaddrinfo(*address, type=socket.SOCK_STREAM)]
    for ip, *_ in found:
        checked = ipaddress.ip_address(ip.partition('%')[0])
        if not checked.is_global or checked.is_multicast:
            raise PermissionError(f'{address[0]} is {ip}, which is not a public address')
    for target in found[:-1]:
        try:
            return socket.create_connection(target[:2], timeout, source_address)
        except OSError:
            continue
    return socket.create_connection(found[-1][:2], timeout, source_address)


class _PublicConnection(http.client.HTTPConnection):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect_to_public


class _PublicHTTPSConnection(http.client.HTTPSConnection):
    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect_to_public


class _PublicHandler(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(_PublicConnection, request)


class _PublicHTTPSHandler(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(_PublicHTTPSConnection, request, context=self._context)


def _opener(allow_private: bool) -> urllib.request.OpenerDirector:
    """Build an opener only for http and https: urllib's default opener would follow a redirect to ftp."""
    opener = urllib.request.OpenerDirector()
    kinds = [urllib.request.HTTPDefaultErrorHandler, urllib.request.HTTPRedirectHandler]
    kinds += [urllib.request.HTTPErrorProcessor, urllib.request.UnknownHandler]
    if allow_private:
        kinds += [urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler]
    else:
        kinds += [_PublicHandler, _PublicHTTPSHandler]
    for kind in kinds:
        opener.add_handler(kind())
    return opener
