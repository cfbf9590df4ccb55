from types import SimpleNamespace

import pytest
from mmengine.model import ImgDataPreprocessor
from mmseg.models import SegDataPreProcessor

from mmbirefnet.deploy.channel_order import takes_rgb


@pytest.mark.parametrize('kind', [SegDataPreProcessor, ImgDataPreprocessor])
@pytest.mark.parametrize('options', [dict(), dict(bgr_to_rgb=True), dict(rgb_to_bgr=True)])
def test_of_either_kind(kind, options):
    assert takes_rgb(kind(**options)) == bool(options)


def test_without_conversion():
    assert not takes_rgb(None)
    assert not takes_rgb(SimpleNamespace())
