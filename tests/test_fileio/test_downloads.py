"""Downloads from plain URLs, from a server on this machine."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hub_server import run_hub

from mmbirefnet.fileio.downloads import download_file

CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture
def hub():
    with run_hub() as hub:
        hub.files['user/repo'] = {'net.pth': CONTENT}
        hub.address = f'{hub.url}/user/repo/resolve/main/net.pth'
        yield hub


def test_complete_file_is_not_downloaded_again(hub, tmp_path):
    download_file(hub.address, tmp_path / 'folder/net.pth')
    assert (tmp_path / 'folder/net.pth').read_bytes() == CONTENT
    download_file(hub.address, tmp_path / 'folder/net.pth')
    assert hub.gets('net.pth') == [None]
    assert not list((tmp_path / 'folder').glob('*.partial'))


def test_interrupted_download_is_continued(hub, tmp_path):
    hub.cut_at = [100_000, 50_000]
    for arrived in (100_000, 150_000):
        message = f'cut off after {arrived} of 300000 bytes.*Fix: run it again, which continues after {arrived} bytes'
        with pytest.raises(OSError, match=message):
            download_file(hub.address, tmp_path / 'net.pth')
        assert not (tmp_path / 'net.pth').exists()
    download_file(hub.address, tmp_path / 'net.pth')
    assert (tmp_path / 'net.pth').read_bytes() == CONTENT
    assert hub.gets('net.pth') == [None, 'bytes=100000-', 'bytes=150000-']


def test_a_file_that_has_changed_meanwhile_is_begun_again(hub, tmp_path):
    hub.cut_at = [100_000]
    with pytest.raises(OSError, match='cut off'):
        download_file(hub.address, tmp_path / 'net.pth')
    hub.files['user/repo']['net.pth'] = CONTENT[::-1]
    download_file(hub.address, tmp_path / 'net.pth')
    assert (tmp_path / 'net.pth').read_bytes() == CONTENT[::-1]
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith('.lock')] == ['net.pth']


def test_several_at_once_download_it_once(hub, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: download_file(hub.address, tmp_path / 'net.pth'), range(3)))
    assert (tmp_path / 'net.pth').read_bytes() == CONTENT
    assert hub.gets('net.pth') == [None]


def test_no_space(hub, tmp_path, monkeypatch):
    monkeypatch.setattr('shutil.disk_usage', lambda _: (0, 0, 0) and type('Usage', (), dict(free=299_999)))
    with pytest.raises(
        OSError, match=r'no space for 300000 bytes in .*Fix: make space there and run it again, or put the file at'
    ):
        download_file(hub.address, tmp_path / 'net.pth')


def test_no_server(tmp_path):
    with pytest.raises(OSError, match=re.escape('http://127.0.0.1:9/net.pth: cannot be downloaded (')):
        download_file('http://127.0.0.1:9/net.pth', tmp_path / 'net.pth')


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match=r'cannot be saved \(.*Fix: set TORCH_HOME to a folder that you may write to'):
        download_file('http://127.0.0.1:9/net.pth', tmp_path / 'file/net.pth')
