"""The running service: a full queue, uploads too large, too slow or cut off, requests that are none, the end."""

import gc
import http.client
import io
import json
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import cv2
import httpx
import numpy as np
import psutil
import pytest
from memory import MEASURABLE, used
from PIL import Image
from red import TakesRed, red_square
from running_service import service

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.server import requests, running

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
    lines = [f'POST {path} HTTP/1.1', 'Host: 127.0.0.1', f'Content-Type: {kind}', f'Content-Length: {length}', '', '']
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
    monkeypatch.setattr(requests, 'DRAIN_SECONDS', 0.2)
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
        (b'POST /api/cut HTTP/1.1\r\nContent-Length: -5\r\nHost: localhost\r\n\r\n', 400),
        (b'POST /api/cut HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\nHost: localhost\r\n\r\n', 400),
        (b'GET /' + b'a' * 100_000 + b' HTTP/1.1\r\nHost: localhost\r\n\r\n', 40),  # 400 or 404, by how it arrives
        (b'GET /../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n', 404),
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


def test_forms_that_are_slow_to_parse_do_not_block_the_others(square):
    """Empty pairs of a form in the URL's encoding: parsing 16 MiB of them took 4 s of CPU time on the event loop."""
    kind = {'Content-Type': 'application/x-www-form-urlencoded'}
    with service() as address:
        start = time.process_time()
        answer = httpx.post(url(address), content=b'&' * (16 * 2**20), headers=kind, timeout=60)
        assert time.process_time() - start < 2
        assert answer.status_code == 422
        assert answer.json()['detail'].startswith('file: send the image as a file')
        long = httpx.post(url(address), files={'file': square}, data={'box': '1,' * 400_000}, timeout=60)
        assert (long.status_code, long.json()['detail'][:10]) == (400, "box='1,1,1")
        assert post(address, square).status_code == 200


def metric(address, name):
    text = httpx.get(url(address).replace('/api/cut', '/metrics'), timeout=30).text
    return float(text.partition(f'\n{name} ')[2].split()[0]) if f'\n{name} ' in text else 0


def noise(height, width):
    """An image that hardly shrinks in a file, with its PNG."""
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, 'PNG', compress_level=1)
    return file.getvalue()


def test_heads_and_parts_of_bodies_take_no_place(square):
    with service(queue=2) as address:
        assert post(address, square).status_code == 200
        with ExitStack() as stack:
            for index in range(8):
                connection = stack.enter_context(socket.create_connection(address))
                connection.sendall(head(5000) + b'--x\r\n' * (index % 2))
            time.sleep(0.3)
            start = time.monotonic()
            assert post(address, square).status_code == 200
            assert time.monotonic() - start < 5
            assert metric(address, 'mmbirefnet_under_way') == 0


def test_idle_connections_do_not_shut_others_out(square):
    with service() as address, ExitStack() as stack:
        for index in range(running.CONNECTIONS + 40):
            connection = stack.enter_context(socket.create_connection(address))
            connection.sendall(head(5000) if index % 2 else b'POST /')
        assert post(address, square).status_code == 200


@pytest.mark.soak
def test_uploads_that_stall_give_way_to_others(square):
    big = noise(700, 1000)
    with service(upload_bytes=2**20 * 3, memory=2**20 * 700, megapixels=1) as address, ExitStack() as stack:
        stalled = []
        for _ in range(40):  # 40 x 2.5 MiB are more than an eighth of the memory
            connection = stack.enter_context(socket.create_connection(address))
            connection.sendall(head(2_900_000) + b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"')
            connection.sendall(b'\r\n\r\n' + b'0' * 2_500_000)
            stalled.append(connection)
        assert post(address, big).status_code == 200
        stalled[0].settimeout(10)
        assert stalled[0].recv(100).startswith(b'HTTP/1.1 429 ')
        stalled[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            stalled[-1].recv(100)


@pytest.mark.soak
def test_answers_that_are_not_read_are_bounded(monkeypatch):
    monkeypatch.setattr(running, 'STALL_SECONDS', 0.5)
    content = noise(1500, 2000)
    with service() as address, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        fast = b'\r\n--x\r\nContent-Disposition: form-data; name="estimate_foreground"\r\n\r\nfalse\r\n--x--\r\n'
        connection.sendall(head(len(part + content + fast)) + part + content + fast)
        assert connection.recv(12) == b'HTTP/1.1 200'
        assert metric(address, 'mmbirefnet_memory_taken_bytes') > 5e6
        wait_until(lambda: metric(address, 'mmbirefnet_memory_taken_bytes') == 0)
        received = 0
        with suppress(ConnectionResetError):
            while block := connection.recv(2**20):
                received += len(block)
        assert received < len(content) / 2


class OutOfMemoryError(RuntimeError):
    """As torch.OutOfMemoryError is called."""


@pytest.mark.parametrize(
    'error',
    [
        MemoryError(),
        OutOfMemoryError('CUDA out of memory.'),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
        cv2.error('OpenCV(4.14.0) error: (-4:Insufficient memory) Failed to allocate 3 bytes'),
    ],
)
def test_out_of_memory_is_503_and_single_requests_succeed_after_it(square, error):
    backend = Fails(error)
    with service(backend) as address:
        with ThreadPoolExecutor(4) as clients:
            answers = list(clients.map(lambda _: post(address, square), range(4)))
        for answer in answers:
            assert answer.status_code == 503
            assert answer.headers['retry-after'] == '2'
            assert 'the service ran out of memory' in answer.json()['detail']
        backend.error = None
        assert post(address, square).status_code == 200


class Fails(TakesRed):
    """Raises an error, and keeps weak references to what it was called with."""

    def __init__(self, error):
        self.error, self.seen = error, []

    def __call__(self, images):
        self.seen.append(weakref.ref(images))
        if self.error is not None:
            raise self.error
        return super().__call__(images)


@pytest.mark.parametrize('error', [ValueError('no'), RuntimeError('no'), MemoryError(), None])
def test_no_array_outlives_its_request(square, error):
    backend = Fails(error)
    gc.collect()
    gc.disable()
    try:
        with service(backend) as address:
            assert post(address, square).status_code == {ValueError: 400, RuntimeError: 500}.get(
                type(error), 503 if error else 200
            )
            wait_until(lambda: metric(address, 'mmbirefnet_under_way') == 0)
            wait_until(lambda: all(seen() is None for seen in backend.seen), 2)
            assert len(backend.seen) == 1
    finally:
        gc.enable()


def test_predictions_have_a_time_limit(square):
    backend = Waits()
    with service(backend, queue=2, seconds=1) as address:
        answers = [post(address, square) for _ in range(2)]
        for answer in answers:
            assert answer.status_code == 503
            assert 'was not ready in time' in answer.json()['detail']
        time.sleep(1)
        assert backend.calls == 1
        assert metric(address, 'mmbirefnet_under_way') == 1  # the first is still computed; the second has left
        backend.go.set()
        wait_until(lambda: metric(address, 'mmbirefnet_under_way') == 0)
        assert backend.calls == 1  # the second was not begun
        assert metric(address, 'mmbirefnet_memory_taken_bytes') == 0
        assert post(address, square).status_code == 200


def test_clients_that_left_are_not_predicted_for(square):
    backend = Waits()
    with service(backend, queue=3) as address, ThreadPoolExecutor(1) as clients:
        first = clients.submit(post, address, square)
        wait_until(lambda: backend.calls == 1)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url(address), files={'file': square}, timeout=1)
        wait_until(lambda: metric(address, 'mmbirefnet_requests_total{status="499"}') == 1)
        backend.go.set()
        assert first.result().status_code == 200
        wait_until(lambda: metric(address, 'mmbirefnet_under_way') == 0)
        assert backend.calls == 1


@pytest.mark.soak
def test_images_that_take_too_long_to_decode(square):
    file = io.BytesIO()
    Image.new('L', (4000, 4000), 100).save(file, 'JPEG', progressive=True)
    data = file.getvalue()
    last = data.rindex(b'\xff\xda')
    slow = data[:last] + data[last:-2] * 400 + data[-2:]
    with service(decode_seconds=1.5) as address:
        start = time.monotonic()
        answer = post(address, slow)
        assert time.monotonic() - start < 10
        assert answer.status_code == 400
        assert 'square.png: decoding took longer than 1.5 s' in answer.json()['detail']
        wait_until(lambda: post(address, square).status_code == 200, 60)


@pytest.mark.soak
def test_images_that_the_memory_does_not_suffice_for():
    with service(memory=600 * 2**20, megapixels=3, upload_bytes=14 * 2**20) as address:
        content = noise(1200, 2500)
        answer = post(address, content)
        assert answer.status_code == 413
        assert 'estimate_foreground=false' in answer.json()['detail']
        data = {'estimate_foreground': 'false'}
        assert httpx.post(url(address), files={'file': content}, data=data, timeout=60).status_code == 200


def test_waiting_requests_are_predicted_together(square):
    backend = Waits()
    with service(backend, queue=6, batch=3) as address, ThreadPoolExecutor(6) as clients:
        first = clients.submit(post, address, square)
        wait_until(lambda: backend.calls == 1)
        others = [clients.submit(post, address, square) for _ in range(5)]
        wait_until(lambda: metric(address, 'mmbirefnet_memory_taken_bytes') > 5 * 90e6)  # all have been decoded
        time.sleep(0.2)
        backend.go.set()
        answers = {future.result().content for future in (first, *others)}
        assert len(answers) == 1
        assert metric(address, 'mmbirefnet_predicted_images_total') == 6
        assert metric(address, 'mmbirefnet_batches_total') == backend.calls == 3


def test_copies_of_a_model_work_at_once(square):
    """Copies stand for devices here: none is idle while a request waits, and the queue is one."""

    class Meets(TakesRed):
        together = threading.Barrier(2)

        def __init__(self):
            self.calls = 0

        def __call__(self, images):
            self.calls += 1
            self.together.wait(20)  # raises unless the other copy works at the same time
            return super().__call__(images)

    backends = [Meets(), Meets()]
    models = {'red': [BiRefNetInferencer(backend=backend) for backend in backends]}
    with service(models, queue=4) as address, ThreadPoolExecutor(4) as clients:
        answers = list(clients.map(lambda _: post(address, square), range(4)))
        assert [answer.status_code for answer in answers] == [200] * 4
        assert httpx.get(url(address).replace('cut', 'health')).json()['devices'] == 2
    assert [backend.calls for backend in backends] == [2, 2]


@pytest.mark.soak
def test_own_size_of_a_dynamic_model_is_in_the_cost():
    class Dynamic(TakesRed):
        side_range = (256, 2304)

    answers = {}
    for backend in (TakesRed(), Dynamic()):
        with service(backend, memory=900 * 2**20, megapixels=2, upload_bytes=7 * 2**20) as address:
            answers[type(backend)] = post(address, noise(1000, 2000)).status_code
    assert answers == {TakesRed: 200, Dynamic: 413}  # 2 megapixels through the model take 2 GB


def test_one_image_that_fails_leaves_its_batch_alone(square):
    class Picky(Waits):
        def __call__(self, images):
            maps = super().__call__(images)
            return np.where((images.max((1, 2, 3)) == 0)[:, None, None], np.float32('nan'), maps)

    backend = Picky()
    file = io.BytesIO()
    Image.new('RGB', (64, 64)).save(file, 'PNG')
    with service(backend, batch=4) as address, ThreadPoolExecutor(4) as clients:
        first = clients.submit(post, address, square)
        wait_until(lambda: backend.calls == 1)
        others = [clients.submit(post, address, content) for content in (square, file.getvalue(), square)]
        wait_until(lambda: metric(address, 'mmbirefnet_memory_taken_bytes') > 3 * 90e6)
        time.sleep(0.2)
        backend.go.set()
        assert first.result().status_code == 200
        assert [future.result().status_code for future in others] == [200, 400, 200]


def test_names_that_resolve_here_are_refused(square):
    """DNS rebinding: a page of evil.example that reaches this service by its own name."""
    with service() as address:
        for host, status in (
            ('evil.example', 400), ('127.0.0.1.evil.example', 400), ('localhost:1', 200), ('127.0.0.1:1', 200),
            ('[::1]:1', 200), ('LOCALHOST', 200), ('[', 400),
        ):  # fmt: skip
            request = f'GET /api/health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n'.encode()
            assert raw(address, request).startswith(f'HTTP/1.1 {status} '.encode()), host
        assert post(address, square, headers={'Origin': 'https://evil.example'}).status_code == 403
        assert post(address, square, headers={'Origin': f'http://127.0.0.1:{address[1]}'}).status_code == 200
    with service(options=dict(allowed_hosts=['cut.example'])) as address:
        for host, status in (('cut.example', 200), ('localhost', 400)):
            answer = httpx.get(url(address).replace('cut', 'health'), headers={'Host': host})
            assert answer.status_code == status


SERVER = """
import logging, sys, threading, time
sys.path[:0] = {path!r}
logging.basicConfig()
from red import TakesRed
from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.server import app, limits, running

class Slow(TakesRed):
    def __call__(self, images):
        print('working', flush=True)
        time.sleep({seconds})
        return super().__call__(images)

listener = running.listen('127.0.0.1', 0)
print(listener.getsockname()[1], flush=True)
running.serve(app.create_app(BiRefNetInferencer(backend=Slow()), limits.Limits(**{bounds!r})), listener)
"""


@contextmanager
def server_process(seconds, bounds=None, **options):
    path = [str(HERE.parent / 'helpers'), str(HERE.parents[1])]
    command = [sys.executable, '-c', SERVER.format(path=path, seconds=seconds, bounds=bounds or {})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options) as process:
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


@pytest.mark.soak
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


OPERATIONS = dict(
    levels='0.1,0.9', min_area='5', largest='true', fill_holes='true', grow='5', feather='5', invert='true', crop='0.1'
)
PASSES = dict(tile='256', two_pass='true', refine='guided')


def memory_of_tree(pid):
    """Bytes that a process and its children have of their own or share with one another."""
    total = 0
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with suppress(OSError):
            status = Path(f'/proc/{process.pid}/status').read_text()
            total += 1024 * int(re.search(r'RssAnon:\s+(\d+) kB', status)[1])
    status = Path(f'/proc/{pid}/status').read_text()
    return total + 1024 * int(re.search(r'RssShmem:\s+(\d+) kB', status)[1])


@pytest.mark.soak
@pytest.mark.skipif(not MEASURABLE, reason='reads /proc, which is of Linux')
@pytest.mark.parametrize(
    'fields',
    [{}, {'format': 'webp', 'output': 'mask'}, {'output': 'composite'}, OPERATIONS, PASSES],
    ids=lambda fields: str(len(fields)),
)
def test_eight_clients_at_the_limits_stay_within_the_memory(square, fields):
    bounds = dict(memory=650 * 2**20, megapixels=2, upload_bytes=7 * 2**20, seconds=300)
    files = {'file': noise(1000, 2000)}
    if fields.get('output') == 'composite':
        files = {'file': noise(1000, 1000), 'background_file': noise(1000, 1000)}
    with server_process(0, bounds) as (process, address):
        threading.Thread(target=process.stdout.read, daemon=True).start()
        assert post(address, square).status_code == 200  # the decoder has started
        before, peak, done = memory_of_tree(process.pid), 0, threading.Event()

        def watch():
            nonlocal peak
            while not done.is_set():
                peak = max(peak, memory_of_tree(process.pid))
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(8) as clients:
            futures = [
                clients.submit(httpx.post, url(address), files=files, data=fields, timeout=300) for _ in range(8)
            ]
            statuses = [future.result().status_code for future in futures]
        done.set()
        watcher.join()
        assert statuses == [200] * 8
        assert peak - before < bounds['memory'], f'{(peak - before) / 2**20:.0f} MiB'
        print(f'{(peak - before) / 2**20:.0f} of {bounds["memory"] / 2**20:.0f} MiB')
        assert post(address, square).status_code == 200


def test_malformed_requests_do_not_flood_the_log(monkeypatch, caplog):
    """One line a minute, with the number of those that were left out."""
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=1000.0)
    monkeypatch.setattr(running, 'time', clock)
    with service() as address:
        for _ in range(20):
            raw(address, b'GET\r\n\r\n')
        clock.now += 61
        raw(address, b'GET\r\n\r\n')
    lines = [record.getMessage() for record in caplog.records if record.name == 'uvicorn.error']
    malformed = 'Invalid HTTP request received.'
    assert lines == [malformed, f'{malformed} (and 19 more since the last such line)']


@pytest.mark.soak
@pytest.mark.skipif(not MEASURABLE, reason='reads /proc, which is of Linux')
def test_few_file_descriptors_do_not_flood_the_log(square):
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))  # noqa: E731
    with server_process(0, stderr=subprocess.PIPE, preexec_fn=limit) as (process, address), ExitStack() as stack:
        most = 0
        for _ in range(300):
            stack.enter_context(socket.create_connection(address))
            most = max(most, len(os.listdir(f'/proc/{process.pid}/fd')))
        assert most < 90
        assert post(address, square).status_code == 200
        process.kill()
        assert process.stderr.read().count('\n') < 10


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


@pytest.mark.soak
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
