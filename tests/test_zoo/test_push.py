"""Uploading to Hugging Face, against a server on loopback that stands for it."""

import base64
import json
import runpy
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from golden import reference_state_dict, with_one_value
from safetensors.torch import load_file

from mmbirefnet.fileio.checkpoints import write_checkpoint
from mmbirefnet.utils import convert_birefnet_state_dict
from mmbirefnet.zoo.push import push_to_hub

constants = pytest.importorskip('huggingface_hub.constants', reason='needs huggingface_hub')
SCRIPT = Path(__file__).parents[2] / 'tools/model_converters/birefnet2mmbirefnet.py'
REPOSITORY = 'somebody/my-birefnet'


class Hub(ThreadingHTTPServer):
    """Answers what an upload asks, and keeps it: requests ``(method, path)`` and files by name."""

    def __init__(self, token: str) -> None:
        super().__init__(('127.0.0.1', 0), Handler)
        self.token = token
        self.requests, self.files = [], {}

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server_port}'


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def answer(self, status: int, content: dict) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def read(self) -> bytes:
        if self.headers.get('Transfer-Encoding') != 'chunked':
            return self.rfile.read(int(self.headers.get('Content-Length', 0)))
        body = b''
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def do_GET(self):
        self.server.requests.append(('GET', self.path))
        self.answer(200, dict(id=REPOSITORY, sha='0' * 40, siblings=[]))

    def do_POST(self):
        body = self.read()
        self.server.requests.append(('POST', self.path))
        if self.headers.get('Authorization') != f'Bearer {self.server.token}':
            self.answer(401, dict(error='Invalid username or password.'))
        elif self.path == '/api/repos/create':
            self.answer(200, dict(url=f'{self.server.url}/{REPOSITORY}', name=REPOSITORY, id=REPOSITORY))
        elif self.path == '/api/validate-yaml':
            self.answer(200, dict(errors=[], warnings=[]))
        elif '/preupload/' in self.path:
            files = [
                dict(path=file['path'], uploadMode='regular', shouldIgnore=False) for file in json.loads(body)['files']
            ]
            self.answer(200, dict(files=files))
        elif '/commit/' in self.path:
            for line in map(json.loads, body.splitlines()):
                if line['key'] == 'file':
                    self.server.files[line['value']['path']] = base64.b64decode(line['value']['content'])
            self.answer(200, dict(commitUrl=f'{self.server.url}/{REPOSITORY}/commit/1', commitOid='1', success=True))
        else:
            self.answer(404, dict(error=f'nothing at {self.path}'))


@pytest.fixture
def hub(monkeypatch):
    server = Hub('hf_right')
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, 'ENDPOINT', server.url)  # HF_ENDPOINT is read when the package is imported
    monkeypatch.setenv('HF_TOKEN', 'hf_right')
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope='module')
def reference() -> dict:
    return with_one_value(reference_state_dict())


@pytest.fixture
def main():
    return runpy.run_path(str(SCRIPT))['main']


@pytest.mark.soak
def test_command(main, hub, reference, tmp_path, capsys):
    src, dst = tmp_path / 'ours.pth', tmp_path / 'release'
    write_checkpoint(src, convert_birefnet_state_dict(reference), {})
    main([str(src), str(dst), '--to', 'reference', '--push-to-hub', REPOSITORY])
    assert f'uploaded {hub.url}/{REPOSITORY}/commit/1' in capsys.readouterr().out
    assert ('POST', '/api/repos/create') in hub.requests
    assert sorted(hub.files) == ['README.md', 'config.json', 'model.safetensors']
    for name, content in hub.files.items():
        assert (dst / name).read_bytes() == content
    (tmp_path / 'received.safetensors').write_bytes(hub.files['model.safetensors'])
    received = load_file(tmp_path / 'received.safetensors')
    assert received.keys() == reference.keys()
    weights = {key: value for key, value in reference.items() if value.is_floating_point()}  # not Swin's index buffers
    assert all(torch.equal(received[key], value) for key, value in weights.items())


def test_other_files_stay_here(hub, tmp_path):
    for name in ('model.safetensors', 'config.json', 'README.md', 'secret.txt'):
        (tmp_path / name).write_text(name)
    push_to_hub(tmp_path, REPOSITORY)
    assert sorted(hub.files) == ['README.md', 'config.json', 'model.safetensors']


def test_errors(hub, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match='has no model.safetensors, config.json, README.md'):
        push_to_hub(tmp_path, REPOSITORY)
    for name in ('model.safetensors', 'config.json', 'README.md'):
        (tmp_path / name).write_text(name)
    monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
    with pytest.raises(PermissionError, match=r'(?s)somebody/my-birefnet: not allowed to write there.*hf auth login'):
        push_to_hub(tmp_path, REPOSITORY)
    assert hub.files == {}
    monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')  # nobody listens there
    with pytest.raises(ConnectionError, match=f'the upload failed.*hf upload {REPOSITORY} {tmp_path}'):
        push_to_hub(tmp_path, REPOSITORY)


def test_options_are_checked_before_anything_is_written(main, tmp_path):
    def error(*words: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(['missing.pth', *words])
        return str(caught.value)

    assert '--push-to-hub uploads a folder' in error('a.pth', '--push-to-hub', REPOSITORY)
    assert '--push-to-hub uploads a folder' in error('a.pth', '--to', 'reference', '--push-to-hub', REPOSITORY)
    for name in ('birefnet', 'a/b/c', 'some body/x'):
        message = error(str(tmp_path / 'out'), '--to', 'reference', '--push-to-hub', name)
        assert message.startswith(f'error: {name}: not the name of a repository')
