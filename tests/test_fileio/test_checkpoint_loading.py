"""What mmengine loads by path and URL: no code is run, downloads are checked."""

import functools
import hashlib
import http.server
import threading
from collections import OrderedDict

import pytest
import torch
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file

import mmbirefnet.registry  # noqa: F401 -- puts the loaders in their place

STATE = {'a.weight': torch.tensor([[1.0, 2.0]]), 'a.bias': torch.tensor([3.0])}


def load(name, **options) -> dict:
    return CheckpointLoader.load_checkpoint(str(name), map_location='cpu', **options)


def assert_state(found: dict) -> None:
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Folder of a server on this machine, its URL, and the folder of downloads."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'home'))
    (tmp_path / 'site').mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / 'site')
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, 'log_message', lambda *_: None)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / 'site', f'http://127.0.0.1:{server.server_port}', tmp_path / 'home/hub/checkpoints'
        server.shutdown()


def test_local_file(tmp_path):
    torch.save(dict(meta=dict(epoch=1, cfg='x = 1', config='raise SystemExit'), state_dict=STATE), tmp_path / 'a.pth')
    found = load(tmp_path / 'a.pth')
    assert_state(found['state_dict'])
    assert found['meta'] == dict(epoch=1, cfg='x = 1')  # mmengine would run `config` when it resumes
    save_file(STATE, tmp_path / 'a.safetensors')
    assert_state(load(tmp_path / 'a.safetensors')['state_dict'])
    for prefix in ('_orig_mod.', 'module._orig_mod.'):
        compiled = OrderedDict((prefix + key, value) for key, value in STATE.items())
        compiled._metadata = OrderedDict({f'{prefix}layer': dict(version=2)})
        torch.save(dict(state_dict=compiled), tmp_path / 'compiled.pth')
        found = load(tmp_path / 'compiled.pth')['state_dict']
        assert_state(found)
        assert found._metadata['layer'] == dict(version=2)  # layers convert parameters of old versions
    torch.save([1], tmp_path / 'list.pth')
    with pytest.raises(ValueError, match=r'list\.pth: not a checkpoint, but a list'):
        load(tmp_path / 'list.pth')


def test_download_is_checked_against_its_name(site):
    folder, url, cache = site
    torch.save(STATE, folder / 'x.pth')
    digest = hashlib.sha256((folder / 'x.pth').read_bytes()).hexdigest()
    name = f'net_20220301-{digest[:8]}.pth'
    (folder / 'x.pth').rename(folder / name)
    assert_state(load(f'{url}/{name}'))
    (folder / name).unlink()
    assert_state(load(f'{url}/{name}'))  # downloaded once
    (cache / name).write_bytes((cache / name).read_bytes() + b' ')
    with pytest.raises(ValueError, match=rf'{name}: its SHA-256 is \w+, not {digest[:8]}….* remove it'):
        load(f'{url}/{name}')
    with pytest.raises(
        OSError, match=r'gone-00000000\.pth: cannot be downloaded \(HTTP Error 404.*run it again, or put the file at'
    ):
        load(f'{url}/gone-00000000.pth')


def test_download_is_checked_against_the_hash_behind_it(site):
    folder, url, _ = site
    torch.save(STATE, folder / 'plain.pth')
    digest = hashlib.sha256((folder / 'plain.pth').read_bytes()).hexdigest()
    assert_state(load(f'{url}/plain.pth#sha256={digest}'))
    with pytest.raises(ValueError, match='its SHA-256 is'):
        load(f'{url}/plain.pth#sha256={"0" * 64}')


def test_download_without_a_hash_is_logged(site, monkeypatch):
    folder, url, _ = site
    torch.save(STATE, folder / 'plain.pth')
    said = []
    monkeypatch.setattr('mmbirefnet.fileio.checkpoint_loading.print_log', lambda text, *_: said.append(text))
    assert_state(load(f'{url}/plain.pth'))
    digest = hashlib.sha256((folder / 'plain.pth').read_bytes()).hexdigest()
    assert said[-1].endswith(f'{url}/plain.pth#sha256={digest}')


def test_files_of_the_same_name_have_different_folders(site):
    folder, url, _ = site
    for name, value in (('a', 1.0), ('b', 2.0)):
        (folder / name).mkdir()
        torch.save(dict(value=torch.tensor(value)), folder / name / 'epoch_1.pth')
    assert [load(f'{url}/{name}/epoch_1.pth')['value'].item() for name in 'ab'] == [1.0, 2.0]


def test_web_page_is_no_checkpoint(site):
    folder, url, cache = site
    (folder / 'login.html').write_text('<html>')
    with pytest.raises(OSError, match='the server sends a web page; give the URL of the file itself'):
        load(f'{url}/login.html')
    assert not list(cache.rglob('login.html'))


@pytest.mark.parametrize(
    ('name', 'names'),
    [('torchvision://net', 'get_torchvision_models'), ('open-mmlab://net', 'get_external_models')],
)
def test_named_models_are_downloaded_alike(site, monkeypatch, name, names):
    folder, url, _ = site
    torch.save(STATE, folder / 'net-00000000.pth')
    monkeypatch.setattr(mmengine_checkpoint, names, lambda: {'net': f'{url}/net-00000000.pth'})
    with pytest.raises(ValueError, match='its SHA-256 is'):
        load(name)
