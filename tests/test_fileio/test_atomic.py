"""Files that take the place of others."""

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


def test_folders(tmp_path):
    for name in ('old', 'new'):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    publish(tmp_path / 'new', tmp_path / 'old')
    assert [path.name for path in (tmp_path / 'old').iterdir()] == ['new']
