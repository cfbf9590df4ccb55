"""Checkpoints by name, from a server on this machine that answers as Hugging Face does."""

import errno
import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import huggingface_hub
import pytest
from hub_server import COMMIT, run_hub

from mmbirefnet.zoo import find_info, list_models
from mmbirefnet.zoo.download import fetch, is_model_name, print_terms

ROOT = Path(__file__).parents[2]
# Prints for each name the path, or the error; the waits between retries are left out.
SCRIPT = """
import json, sys, time
from mmbirefnet.zoo import fetch
time.sleep = lambda seconds: None
found = []
for name in sys.argv[1:]:
    try:
        found.append(['path', str(fetch(name))])
    except (OSError, ValueError, ImportError) as error:
        found.append([type(error).__name__, str(error)])
assert not {'torch', 'mmengine', 'numpy'} & sys.modules.keys()
print(json.dumps(found))
"""


class Machine:
    """Processes with a cache and a server of their own."""

    def __init__(self, folder, endpoint):
        self.folder = folder
        self.environment = os.environ | {
            'HF_ENDPOINT': endpoint,
            'HF_HOME': str(folder / 'home'),
            'PYTHONPATH': str(ROOT),
        }

    def start(self, *names, **environment):
        command = [sys.executable, '-c', SCRIPT, *names]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return subprocess.Popen(command, env=self.environment | environment, cwd=self.folder, **pipes)

    def fetch(self, *names, **environment):
        process = self.start(*names, **environment)
        out, self.stderr = process.communicate(timeout=120)
        assert process.returncode == 0, self.stderr
        return json.loads(out)


@pytest.fixture
def hub():
    with run_hub() as server:
        yield server


@pytest.fixture
def machine(hub, tmp_path):
    return Machine(tmp_path, hub.url)


def test_names_of_models(hub, machine):
    hub.files['ZhengPeng7/BiRefNet_HR'] = {'model.safetensors': b'HR', 'pytorch_model.bin': b'pickle'}
    hub.files['joelseytre/toonout'] = {'birefnet_finetuned_toonout.pth': b'toon', 'model.safetensors': b'other'}
    hub.files['me/both'] = {'model.safetensors': b'safe', 'pytorch_model.bin': b'pickle', 'x.pth': b'x'}
    hub.files['me/pickle'] = {'pytorch_model.bin': b'pickle', 'config.json': b'{}'}
    hub.files['me/odd'] = {'README.md': b'', 'deep/mine.safetensors': b'mine', 'mine.pth': b'pickle'}
    expected = {
        'BiRefNet_HR': b'HR',
        'birefnet-hr': b'HR',
        'zhengpeng7/BiRefNet_HR': b'HR',
        'ToonOut': b'toon',
        'me/both': b'safe',
        'me/pickle': b'pickle',
        'me/odd': b'mine',
        'me/both:x.pth': b'x',
        'me/both@v2:x.pth': b'x',
        f'me/both@{COMMIT}': b'safe',
        'https://huggingface.co/me/both': b'safe',
        'https://huggingface.co/me/odd/resolve/main/deep/mine.safetensors?download=true': b'mine',
        'https://huggingface.co/me/both/blob/v2/x.pth': b'x',
        'https://HuggingFace.co/me/odd/tree/main': b'mine',
        f'https://huggingface.co/me/both/blob/main/x.pth#sha256={hashlib.sha256(b"x").hexdigest()}': b'x',
    }
    hub.files['zhengpeng7/BiRefNet_HR'] = hub.files['ZhengPeng7/BiRefNet_HR']
    found = machine.fetch(*expected)
    assert [kind for kind, _ in found] == ['path'] * len(expected), found
    assert [Path(path).read_bytes() for _, path in found] == [*expected.values()]
    assert (Path(found[5][1]).parent / 'config.json').read_bytes() == b'{}'  # what is known of the model
    assert len(hub.gets('BiRefNet_HR/resolve/main/model.safetensors')) == 1  # then it is in the cache
    assert machine.stderr == ''


def test_a_download_that_is_cut_off_goes_on(hub, machine):
    content = os.urandom(1000) * 25_000
    hub.files['me/large'] = {'model.safetensors': content}
    hub.cut_at = [15_000_000]
    # huggingface_hub 2 goes on by itself, earlier versions when they are called again.
    *_, (kind, path) = machine.fetch('me/large', 'me/large')
    assert kind == 'path'
    assert Path(path).read_bytes() == content
    whole, rest = hub.gets('model.safetensors')
    assert whole is None
    assert 0 < int(rest.removeprefix('bytes=').removesuffix('-')) <= 15_000_000


def test_a_download_with_another_hash_is_removed(hub, machine):
    hub.files['me/model'] = {'model.safetensors': b'right'}
    digest = hashlib.sha256(b'right').hexdigest()
    hub.files['me/model']['model.safetensors'] = b'wrong'
    hub.claimed['model.safetensors'] = digest
    wrong = hashlib.sha256(b'wrong').hexdigest()
    ((kind, message),) = machine.fetch('me/model')
    assert kind == 'ValueError'
    assert message.startswith(f'me/model: the SHA-256 of the downloaded model.safetensors is {wrong}, not {digest}')
    hub.files['me/model']['model.safetensors'] = b'right'
    ((kind, path),) = machine.fetch('me/model')
    assert kind == 'path', path
    assert Path(path).read_bytes() == b'right'


@pytest.mark.soak
def test_without_network(hub, machine, tmp_path):
    hub.files['ZhengPeng7/BiRefNet'] = {'model.safetensors': b'general'}
    machine.fetch('BiRefNet')
    nowhere = dict(HF_ENDPOINT='http://127.0.0.1:9')
    (first, second) = machine.fetch('BiRefNet', 'BiRefNet_lite', **nowhere)
    assert Path(first[1]).read_bytes() == b'general'
    bring = (
        'To use a local file: download https://huggingface.co/ZhengPeng7/BiRefNet_lite/resolve/main/model.safetensors '
        'elsewhere, copy it to this machine as BiRefNet_lite/model.safetensors, and give that path (--checkpoint, in '
        'Python weights=)'
    )
    reason = 'BiRefNet_lite: cannot be downloaded: no network, or http://127.0.0.1:9 is down. '
    assert second == ['NotCachedError', reason + bring]
    (first, second) = machine.fetch('BiRefNet', 'BiRefNet_lite', HF_HUB_OFFLINE='1')
    assert Path(first[1]).read_bytes() == b'general'
    reason = 'BiRefNet_lite: cannot be downloaded: HF_HUB_OFFLINE is set, and it is not in the cache. '
    assert second == ['NotCachedError', reason + bring]
    (tmp_path / 'BiRefNet_lite').mkdir()  # as the message says
    (tmp_path / 'BiRefNet_lite/model.safetensors').write_bytes(b'brought')
    assert machine.fetch('BiRefNet_lite', **nowhere) == [['path', 'BiRefNet_lite/model.safetensors']]


def test_cached_files_of_any_name_need_no_network(hub, machine):
    hub.files['me/pickle'] = {'pytorch_model.bin': b'pickle'}
    hub.files['me/odd'] = {'mine.safetensors': b'mine', 'README.md': b''}
    hub.files['me/plain'] = {'model.safetensors': b'plain'}  # without config.json
    names = ('me/pickle', 'me/odd', 'me/plain')
    online = machine.fetch(*names)
    assert [Path(path).read_bytes() for _, path in online] == [b'pickle', b'mine', b'plain']
    assert machine.fetch(*names, HF_HUB_OFFLINE='1') == online


def test_errors_of_the_cache_name_the_folder(hub, machine, tmp_path):
    hub.files['me/model'] = {'model.safetensors': b'safe'}
    (tmp_path / 'file').touch()
    ((kind, message),) = machine.fetch('me/model', HF_HUB_CACHE=str(tmp_path / 'file'))
    assert kind == 'PermissionError'
    assert f'{tmp_path / "file"}' in message
    assert message.endswith('Fix: set HF_HOME to a folder that you may write to')


def test_errors_say_what_to_do(hub, machine):
    hub.files['me/parts'] = {'model.safetensors.index.json': b'{}', 'model-00001-of-00002.safetensors': b''}
    (machine.folder / 'parts').mkdir()
    (machine.folder / 'parts/model.safetensors.index.json').touch()
    hub.files['briaai/RMBG-2.0'] = {'model.safetensors': b'gated'}
    hub.gated.add('briaai/RMBG-2.0')
    hub.files['me/two'] = {'a.pth': b'a', 'b.pth': b'b'}
    hub.files['me/none'] = {'README.md': b''}
    expected = {
        'RMBG-2.0': (
            'PermissionError',
            'terms have to be accepted first. Fix: log in at https://huggingface.co/briaai/RMBG-2.0',
        ),
        'me/two:c.pth': ('MissingFileError', 'https://huggingface.co/me/two has no file c.pth'),
        'me/parts': ('FileNotFoundError', 'model.safetensors.index.json, so its parameters are in several files'),
        'parts': ('FileNotFoundError', 'model.safetensors.index.json, so its parameters are in several files'),
        'me/two:../a.pth': ('ValueError', "no file here, nor the name of a model: Invalid filename '../a.pth'"),
        f'https://hf.co/me/two/resolve/main/a.pth#sha256={"0" * 64}': ('ValueError', 'check the URL and the hash'),
        'me/two@v3': ('FileNotFoundError', 'https://huggingface.co/me/two has no revision v3'),
        'me/gone': ('FileNotFoundError', 'neither a file here, nor a repository on Hugging Face'),
        'me/two': ('FileNotFoundError', 'but a.pth, b.pth. Fix: name the file, such as me/two:a.pth'),
        'me/none': ('FileNotFoundError', 'but README.md. None is a checkpoint'),
        'BiRefNet_HRR': ('FileNotFoundError', 'neither a file here nor a released model; did you mean BiRefNet_HR or'),
        'work_dirs/epoch_6.pth': ('FileNotFoundError', 'no such file'),
        'epoch_6.pth': ('FileNotFoundError', 'no such file'),
    }
    for (name, (kind, message)), found in zip(expected.items(), machine.fetch(*expected), strict=True):
        assert found[0] == kind, found
        assert found[1].startswith(f'{name}: ')
        assert message in found[1]
        assert '\n' not in found[1]
    terms = 'RMBG-2.0: the weights are licensed for non-commercial use only (CC BY-NC 4.0)'
    assert machine.stderr.count(terms) == 1


def test_two_processes_download_once(hub, machine):
    content = os.urandom(1000) * 20_000
    hub.files['me/large'] = {'model.safetensors': content}
    processes = [machine.start('me/large') for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    for out, error in outputs:
        ((kind, path),) = json.loads(out or '[["failed", ""]]')
        assert kind == 'path', error
        assert Path(path).read_bytes() == content
    assert len(hub.gets('model.safetensors')) == 1


def test_what_is_on_the_disk_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('BiRefNet').write_bytes(b'file')
    assert fetch('BiRefNet') == Path('BiRefNet')
    Path('me').mkdir()
    Path('me/model').mkdir()
    Path('me/model/pytorch_model.bin').write_bytes(b'file')
    assert fetch('me/model') == Path('me/model/pytorch_model.bin')
    Path('empty').mkdir()
    with pytest.raises(FileNotFoundError, match=r'empty: this folder has no model\.safetensors'):
        fetch('empty')


def test_a_folder_without_a_checkpoint_does_not_hide_a_model(tmp_path, monkeypatch):
    """Such as a clone of the authors' repository."""
    monkeypatch.chdir(tmp_path)
    Path('BiRefNet').mkdir()
    downloaded = str(tmp_path / 'model.safetensors')
    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', lambda **_: downloaded)
    assert fetch('BiRefNet') == Path(downloaded)


def test_a_full_disk(monkeypatch):
    def fail(**_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', fail)
    with pytest.raises(OSError, match=r'BiRefNet_lite: no space left for model\.safetensors in .*Fix: .*HF_HOME'):
        fetch('BiRefNet_lite')


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(ImportError, match=r"BiRefNet: .*Fix: pip install 'mmbirefnet\[hub\]'"):
        fetch('BiRefNet')


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('BiRefNet_HR', True),
        ('me/model', True),
        ('me/model@v1:weights.pth', True),
        ('https://example.org/a.pth', True),
        ('me/model.pth', False),
        ('configs/birefnet.py', False),
        ('birefnet_swin-t_8xb4-500e_dis5k-1024x1024', False),
        ('work_dirs/run/epoch_6', False),
        ('./me/model', False),
        ('/me/model', False),
        ('model.onnx', False),
    ],
)
def test_is_model_name(text, expected):
    assert is_model_name(text) == expected


def test_terms_are_printed_once(capsys):
    for name in list_models():
        for _ in range(2):
            print_terms(find_info(name))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('RMBG-2.0: ')


def test_url(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    for folder, content in (('a', b'first'), ('b', b'second')):
        (tmp_path / 'site' / folder).mkdir(parents=True)
        (tmp_path / 'site' / folder / 'model.pth').write_bytes(content)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / 'site')
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, 'log_message', lambda *_: None)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}'
        assert fetch(f'{url}/a/model.pth').read_bytes() == b'first'
        assert fetch(f'{url}/b/model.pth').read_bytes() == b'second'  # of the same name
        digest = hashlib.sha256(b'first').hexdigest()
        assert fetch(f'{url}/a/model.pth#sha256={digest}').read_bytes() == b'first'
        with pytest.raises(ValueError, match='its SHA-256 is'):
            fetch(f'{url}/b/model.pth#sha256={digest}')
        with pytest.raises(OSError, match=r'c/model\.pth: cannot be downloaded .*404'):
            fetch(f'{url}/c/model.pth')
        paths = {fetch(f'{url}/a/model.pth{query}') for query in ('', '?id=1', '?id=2')}
        assert len(paths) == 3
        outside = fetch(f'{url}/a/../../../a/model.pth').resolve()
        assert outside.is_relative_to(tmp_path / 'home/hub/checkpoints')
        with pytest.raises(ValueError, match='does not end with the name of a file'):
            fetch(f'{url}/')
        server.shutdown()
