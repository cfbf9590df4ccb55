"""What the commands do before the first image."""

import gc

import pytest

from mmbirefnet.cli.options import without_garbage_collection


@pytest.mark.parametrize('error', [None, OSError('no such model')])
def test_garbage_is_collected_again_once_the_model_is_loaded(error):
    before = gc.get_freeze_count()
    try:
        with without_garbage_collection():
            assert not gc.isenabled()
            loaded = [[]]
            if error:
                raise error
    except OSError:
        pass
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    assert not any(each is loaded for each in gc.get_objects())
