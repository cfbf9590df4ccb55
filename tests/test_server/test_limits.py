"""The running service: a full queue, uploads too large, too slow or cut off, requests that are none, the end."""

import http.client
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from memory import MEASURABLE, used
from PIL import Image
from red import TakesRed, red_square
from running_service import service

from mmbirefnet.server import limits, running

HERE = Path(__file__).parent


class Waits(TakesRed):
    """Predicts when it is let."""

    def __init__(self):
        self.go, self.calls = threading.Event(), 0

    def __call__(self, images):
        self.calls += 1
        assert self.go.wait(30)
        return super().__call__(images)


@pytest.fixture
def square(tmp_path):
    path = tmp_path / 'square.png'
    Image.fromarray(red_square()[0]).save(path)
    return path.read_bytes()


def url(address):
    return f'http://{address[0]}:{address[1]}/api/cut'


def post(address, content, **options):
    return httpx.post(url(address), files={'file': ('square.png', content)}, timeout=30, **options)


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def head(length, path='/api/cut', kind='multipart/form-data; boundary=x'):
    lines = [f'POST {path} HTTP/1.1', 'Host: x', f'Content-Type: {kind}', f'Content-Length: {length}', '', '']
    return '\r\n'.join(lines).encode()


def raw(address, data, seconds=10):
    """Whatever the service says until it closes the connection or is silent."""
    with socket.create_connection(address, timeout=seconds) as connection:
        connection.sendall(data)
        answer = b''
        try:
            while block := connection.recv(65536):
                answer += block
                if b'}' in answer:
                    break
        except TimeoutError:
            pass
    return answer


def test_beyond_the_queue_429_and_none_accepted_is_lost(square):
    backend = Waits()
    with service(backend, queue=3) as address, ThreadPoolExecutor(3) as clients:
        accepted = [clients.submit(post, address, square) for _ in range(3)]
        health = url(address).replace('cut', 'health')
        wait_until(lambda: httpx.get(health, timeout=30).json()['under_way'] == 3)
        refused = post(address, square)
        assert refused.status_code == 429
        assert refused.headers['retry-after'] == '2'
        assert 'queue is full' in refused.json()['detail']
        backend.go.set()
        assert [future.result().status_code for future in accepted] == [200] * 3
        assert post(address, square).status_code == 200


def test_places_are_free_again_after_every_kind_of_end(square):
    with service(queue=1, upload_bytes=10_000) as address:
        for content in (b'', b'no image', square, b'0' * 20_000) * 3:
            assert post(address, content).status_code in (200, 400, 413)
        for _ in range(3):
            with socket.create_connection(address) as connection:  # cut off in the middle of the body
                connection.sendall(head(5000) + b'--x\r\n')
        wait_until(lambda: post(address, square).status_code == 200)


def test_large_uploads_are_refused_before_they_are_read(monkeypatch):
    monkeypatch.setattr(limits, 'DRAIN_SECONDS', 0.2)
    with service(upload_bytes=100_000) as address:
        answer = raw(address, head(10**12))
        assert answer.startswith(b'HTTP/1.1 413 ')
        assert b'at most 100000 bytes' in answer

        def chunks():  # no length announced
            yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
            for _ in range(100):
                yield b'0' * 10_000

        kind = {'Content-Type': 'multipart/form-data; boundary=x'}
        try:
            status = httpx.post(url(address), content=chunks(), headers=kind).status_code
        except httpx.WriteError:  # closed while still sending
            status = 413
        assert status == 413


def test_slow_bodies_and_slow_heads(monkeypatch, square):
    monkeypatch.setattr(running, 'HEADER_SECONDS', 0.3)
    with service(upload_seconds=0.3) as address:
        assert raw(address, head(5000) + b'--x\r\n').startswith(b'HTTP/1.1 408 ')
        start = time.monotonic()
        assert raw(address, b'POST /api/cut HTTP/1.1\r\nHost: ') == b''  # closed
        assert raw(address, b'') == b''
        assert time.monotonic() - start < 5
        assert post(address, square).status_code == 200


@pytest.mark.parametrize(
    ('data', 'status'),
    [
        (b'\0\xff\xfe' * 100 + b'\r\n\r\n', 400),
        (b'GET\r\n\r\n', 400),
        (b'POST /api/cut HTTP/1.1\r\nContent-Length: -5\r\nHost: x\r\n\r\n', 400),
        (b'POST /api/cut HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\nHost: x\r\n\r\n', 400),
        (b'GET /' + b'a' * 100_000 + b' HTTP/1.1\r\nHost: x\r\n\r\n', 40),  # 400 or 404, by how it arrives
        (b'GET /../../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n', 404),
        (head(3) + b'abc', 400),
        (head(4, kind='multipart/form-data') + b'abcd', 400),
        (head(2, kind='application/json') + b'{}', 422),
        (head(9, kind='application/x-www-form-urlencoded') + b'file=abcd', 422),
    ],
)
def test_malformed_requests(data, status, square):
    with service() as address:
        answer = raw(address, data, seconds=3)
        assert answer.startswith(f'HTTP/1.1 {status}'.encode()), answer[:200]
        assert post(address, square).status_code == 200


def test_many_fields_and_parts(square):
    with service(upload_bytes=10**6) as address:
        many = {f'field{index}': 'x' for index in range(2000)}
        assert httpx.post(url(address), files={'file': square}, data=many).status_code == 400
        assert httpx.post(url(address), files=[('file', square)] * 1500).status_code == 400
        assert post(address, square).status_code == 200


SERVER = """
import sys, threading, time
sys.path[:0] = {path!r}
from red import TakesRed
from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.server import app, running

class Slow(TakesRed):
    def __call__(self, images):
        print('working', flush=True)
        time.sleep({seconds})
        return super().__call__(images)

listener = running.listen('127.0.0.1', 0)
print(listener.getsockname()[1], flush=True)
running.serve(app.create_app(BiRefNetInferencer(backend=Slow())), listener)
"""


@contextmanager
def server_process(seconds):
    path = [str(HERE.parent), str(HERE.parents[1])]
    command = [sys.executable, '-c', SERVER.format(path=path, seconds=seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, ('127.0.0.1', int(process.stdout.readline()))
        finally:
            process.kill()


def test_shutdown_finishes_what_was_accepted(square):
    with server_process(seconds=1.5) as (process, address), ThreadPoolExecutor(2) as clients:
        accepted = [clients.submit(post, address, square) for _ in range(2)]
        assert process.stdout.readline() == 'working\n'
        time.sleep(0.5)  # the second is in as well
        process.send_signal(signal.SIGTERM)
        assert [future.result().status_code for future in accepted] == [200, 200]
        assert process.wait(20) in (0, -signal.SIGTERM)
        with pytest.raises(OSError, match='refused'):
            socket.create_connection(address)


@pytest.mark.slow
@pytest.mark.skipif(not MEASURABLE, reason='reads /proc, which is of Linux')
def test_memory_and_files_stay_flat_over_500_requests_of_8_clients(square):
    with server_process(seconds=0) as (process, address):
        threading.Thread(target=process.stdout.read, daemon=True).start()
        measured, statuses = [], []

        def client(requests):
            with httpx.Client(timeout=60) as session:
                for _ in range(requests):
                    statuses.append(session.post(url(address), files={'file': square}).status_code)

        for _ in range(5):
            with ThreadPoolExecutor(8) as clients:
                list(clients.map(client, [13] * 7 + [9]))
            time.sleep(0.5)  # until it has noticed that connections are closed
            measured.append(used(process.pid))
    assert statuses == [200] * 500
    memory, files = zip(*measured)
    assert max(files) - min(files) <= 2
    # The first round fills pools and caches.
    slope = (memory[-1] - memory[1]) / 300 / 1024
    assert slope < 20, f'{slope:.1f} KiB a request: {memory}'


def test_log_files_of_others_stay_open(tmp_path):
    handler = logging.FileHandler(tmp_path / 'log')
    with service():
        pass
    assert handler.stream is not None
    handler.close()


def test_addresses_that_cannot_be_listened_on(capsys):
    with running.listen('127.0.0.1', 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f'127.0.0.1:{port}: cannot listen there'):
            running.listen('127.0.0.1', port)
    with pytest.raises(OSError, match='127.0.0.1:70000: cannot listen there'):
        running.listen('127.0.0.1', 70000)


def test_command_says_where_it_listens(trained_checkpoint):
    config, checkpoint = trained_checkpoint
    words = ['serve', '--port', '0', '--config', str(config), '--checkpoint', str(checkpoint)]
    command = [sys.executable, '-m', 'mmbirefnet.cli.main', *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline()
            assert said.startswith('http://127.0.0.1:')
            port = int(said.split()[0].rsplit(':', 1)[1])
            connection = http.client.HTTPConnection('127.0.0.1', port, timeout=30)
            connection.request('GET', '/api/health')
            assert json.loads(connection.getresponse().read())['status'] == 'ok'
            connection.close()
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) in (0, -signal.SIGTERM)
        finally:
            process.kill()
