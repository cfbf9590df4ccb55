"""Files that take the place of others."""

import os

import pytest

from mmbirefnet.fileio.atomic import publish, replacing


def test_replaces_at_the_end(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with replacing(path) as temporary:
        temporary.write_text('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / 'file'
    path.write_text('old')
    with pytest.raises(TypeError), replacing(path) as temporary, temporary.open('w') as file:
        file.writelines(['half', 1])
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('links', [True, False])
def test_without_replacing(links, tmp_path, monkeypatch):
    """Also on file systems without hard links."""
    if not links:
        monkeypatch.setattr(os, 'link', lambda *_: os.remove(tmp_path / 'no such file'))
    path = tmp_path / 'file'
    with replacing(path, overwrite=False) as temporary:
        temporary.write_text('first')
    with pytest.raises(FileExistsError, match='file: already exists'), replacing(path, overwrite=False) as temporary:
        temporary.write_text('second')
    assert path.read_text() == 'first'
    (tmp_path / 'link').symlink_to(tmp_path / 'nowhere')
    with pytest.raises(FileExistsError), replacing(tmp_path / 'link', overwrite=False) as temporary:
        temporary.write_text('third')
    assert sorted(each.name for each in tmp_path.iterdir()) == ['file', 'link']


def test_temporary_names_cannot_be_foreseen(tmp_path):
    names = set()
    for _ in range(3):
        with replacing(tmp_path / 'file') as temporary:
            names.add(temporary.name)
    assert len(names) == 3
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / 'file').stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_folder_is_no_file_to_replace(tmp_path):
    (tmp_path / 'name').mkdir()
    (tmp_path / 'name/content').touch()
    with pytest.raises(OSError), replacing(tmp_path / 'name'):  # noqa: PT011  the system words it
        pass
    assert [path.name for path in tmp_path.rglob('*')] == ['name', 'content']


def test_publish_replaces_a_folder(tmp_path):
    for name in ('old', 'new'):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    publish(tmp_path / 'new', tmp_path / 'old')
    assert [path.name for path in (tmp_path / 'old').iterdir()] == ['new']


@pytest.mark.parametrize('name', ['gone/a.pth', 'file/a.pth', f'{"x" * 300}/a.pth'])
def test_errors_name_the_file(tmp_path, name):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match=rf'cannot be written \(.+\): .*{name}') as error, replacing(tmp_path / name):
        pass
    assert error.value.errno
