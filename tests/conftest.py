import pytest
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True, scope='module')
def mmseg_scope():
    """Configs have mmseg's scope, as its own tools set it."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield
