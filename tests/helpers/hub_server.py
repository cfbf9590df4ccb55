"""A server on this machine that answers as Hugging Face does, for what ``hf_hub_download`` asks."""

import hashlib
import http.server
import json
import threading
from contextlib import contextmanager
from urllib.parse import unquote, urlparse

COMMIT = '0123456789abcdef0123456789abcdef01234567'


class HubServer:
    """Repositories, and the requests that were made.

    Attributes:
        files: Content by ``'user/repo'`` and file name.
        gated: Repositories whose terms have not been accepted.
        claimed: SHA-256 that is sent instead of the right one, by file name.
        cut_at: Number of bytes after which the next whole answers are cut off, one for each item.
        requests: (method, path, Range header) of all requests.
    """

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.claimed: dict[str, str] = {}
        self.cut_at: list[int] = []
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = ''

    def gets(self, file: str) -> list[str | None]:
        """Range headers of the requests for the content of a file."""
        return [wanted for method, path, wanted in self.requests if method == 'GET' and path.endswith(file)]


@contextmanager
def run_hub():
    """Start the server, and stop it at the end."""
    hub = HubServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            path = unquote(urlparse(self.path).path)
            hub.requests.append((self.command, path, self.headers.get('Range')))
            parts = path.strip('/').split('/')
            if parts[:2] == ['api', 'models']:
                self.list_files(hub.files['/'.join(parts[2:4])])
                return
            repository, file = '/'.join(parts[:2]), '/'.join(parts[4:])
            if repository not in hub.files:
                self.refuse(401, 'RepoNotFound')
            elif repository in hub.gated:
                self.refuse(403, 'GatedRepo')
            elif parts[3] not in ('main', 'v2', COMMIT):
                self.refuse(404, 'RevisionNotFound')
            elif file not in hub.files[repository]:
                self.refuse(404, 'EntryNotFound')
            else:
                self.send_file(file, hub.files[repository][file])

        def list_files(self, files):
            entries = [dict(type='file', path=name, size=len(data), oid='0' * 40) for name, data in files.items()]
            content = json.dumps(entries).encode()
            self.send_response(200)
            self.send_header('Content-Type', 'application/json')
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def refuse(self, status, code):
            self.send_response(status)
            self.send_header('X-Error-Code', code)
            self.send_header('X-Repo-Commit', COMMIT)
            self.send_header('Content-Length', '0')
            self.end_headers()

        def send_file(self, file, content):
            start = int((self.headers.get('Range') or 'bytes=0-').removeprefix('bytes=').partition('-')[0])
            self.send_response(206 if start else 200)
            if start:
                self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
            self.send_header('ETag', f'"{hub.claimed.get(file) or hashlib.sha256(content).hexdigest()}"')
            self.send_header('X-Repo-Commit', COMMIT)
            self.send_header('Accept-Ranges', 'bytes')
            self.send_header('Content-Length', str(len(content) - start))
            self.end_headers()
            if self.command == 'HEAD':
                return
            if hub.cut_at:
                self.wfile.write(content[start : start + hub.cut_at.pop(0)])
                self.close_connection = True
            else:
                self.wfile.write(content[start:])

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        hub.url = f'http://127.0.0.1:{server.server_port}'
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield hub
        server.shutdown()
