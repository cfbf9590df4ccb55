"""Reading from the web: limits, and what is not public stays unread."""

import http.server
import socket
import threading
import time

import pytest

from mmbirefnet.imaging.urls import read_url


class Handler(http.server.BaseHTTPRequestHandler):
    visited: list[str] = []

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.visited.append(self.path)
        match self.path:
            case '/file':
                self.reply(200, b'content')
            case '/redirect':
                self.reply(302, Location='/file')
            case '/ftp':
                self.reply(302, Location='ftp://127.0.0.1/file')
            case '/large':
                self.reply(200, b'x' * 2000)
            case '/unlimited':  # without a length
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'x' * 200_000)
            case '/short':
                self.reply(200, b'12', **{'Content-Length': '10'})
            case '/slow':
                self.send_response(200)
                self.end_headers()
                for _ in range(50):
                    self.wfile.write(b'x')
                    time.sleep(0.1)
            case _:
                self.reply(404)

    def reply(self, status, content=b'', **headers):
        self.send_response(status)
        for name, value in ({'Content-Length': str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def url(monkeypatch):
    monkeypatch.setattr(Handler, 'visited', [])
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_content_of_files_and_redirects(url):
    assert read_url(f'{url}/file', allow_private=True) == b'content'
    assert read_url(f'{url}/redirect', allow_private=True) == b'content'
    assert read_url(f'{url}/large', max_bytes=2000, allow_private=True) == b'x' * 2000


def test_private_addresses_are_not_connected_to(url, monkeypatch):
    port = url.rpartition(':')[2]
    for host in (
        '127.0.0.1',
        'localhost',
        '2130706433',
        '[::ffff:127.0.0.1]',
        '169.254.169.254',
        '10.0.0.1',
        '[fd00::1]',
    ):
        with pytest.raises(PermissionError, match='is not a public address'):
            read_url(f'http://{host}:{port}/file')
    with pytest.raises(PermissionError, match=r'localhost is .*, which is not a public address'):
        read_url(f'https://localhost:{port}/file')
    assert Handler.visited == []


def test_a_redirect_to_a_private_address_is_not_followed(url, monkeypatch):
    """The first connection is to a public address, here answered by this machine."""
    monkeypatch.setattr('mmbirefnet.imaging.urls.socket.getaddrinfo', _public_once(socket.getaddrinfo))

    def connect_here(address, timeout, source_address):
        connection = socket.socket()
        connection.connect(('127.0.0.1', int(url.rpartition(':')[2])))
        return connection

    monkeypatch.setattr('mmbirefnet.imaging.urls.socket.create_connection', connect_here)
    assert read_url('http://public.example/file') == b'content'
    monkeypatch.setattr('mmbirefnet.imaging.urls.socket.getaddrinfo', _public_once(socket.getaddrinfo))
    with pytest.raises(PermissionError, match='is not a public address'):
        read_url('http://public.example/redirect')
    assert Handler.visited == ['/file', '/redirect']


def _public_once(lookup):
    """A name that is of a public address at first, and of this machine when it is looked up again."""
    addresses = iter(['8.8.8.8'])

    def getaddrinfo(host, port, **options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, '', (next(addresses, '127.0.0.1'), port))]

    return getaddrinfo


@pytest.mark.parametrize(
    ('path', 'error', 'message'),
    [
        ('/large', ValueError, '/large: larger than the limit of 1000 bytes'),
        ('/unlimited', ValueError, '/unlimited: larger than the limit of 1000 bytes'),
        ('/short', OSError, '/short: cut off after 2 bytes'),
        ('/gone', OSError, '/gone: cannot be read: HTTP 404 Not Found'),
        ('/ftp', OSError, '/ftp: cannot be read: unknown url type: ftp'),
        ('/slow', OSError, '/slow: cannot be read: it takes too long'),
    ],
)
def test_limits(url, path, error, message):
    with pytest.raises(error, match=message):
        read_url(url + path, max_bytes=1000, seconds=1, allow_private=True)


@pytest.mark.parametrize('text', ['file:///etc/passwd', 'ftp://example.org/a.png', 'a.png'])
def test_other_schemes_are_rejected(text):
    with pytest.raises(ValueError, match='not a URL that begins with http'):
        read_url(text, allow_private=True)


def test_a_host_that_does_not_exist():
    with pytest.raises(OSError, match='http://nowhere.invalid/a.png: cannot be read: '):
        read_url('http://nowhere.invalid/a.png')
