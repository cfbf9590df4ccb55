"""Background removal in one call."""

import dataclasses
import functools
import http.server
import importlib
import inspect
import io
import subprocess
import sys
import threading

import numpy as np
import pytest
from pico import iou
from PIL import Image, ImageCms

from mmbirefnet import remove_background
from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.datasets.preparation.synthetic import make_sample
from mmbirefnet.imaging.compose import cut_out
from mmbirefnet.imaging.read import LoadedImage
from mmbirefnet.imaging.settings import Settings

module = importlib.import_module('mmbirefnet.apis.cutout')


def test_package_and_apis_export_the_same_function():
    assert importlib.import_module('mmbirefnet.apis').remove_background is remove_background


@pytest.fixture(scope='module')
def inferencer(trained_checkpoint):
    return BiRefNetInferencer(*trained_checkpoint, device='cpu')


@pytest.fixture(scope='module')
def drawing():
    """RGB image and mask."""
    sample = make_sample(0, 'DIS-VD', 6, (120, 160))
    return np.ascontiguousarray(sample.image[..., ::-1]), sample.mask


@pytest.fixture
def png(drawing):
    buffer = io.BytesIO()
    Image.fromarray(drawing[0]).save(buffer, 'png')
    return buffer.getvalue()


@pytest.mark.soak
def test_all_kinds_of_images(inferencer, drawing, png, tmp_path, monkeypatch):
    rgb, mask = drawing
    (tmp_path / 'a.png').write_bytes(png)
    result = remove_background(rgb, inferencer)
    assert (result.mode, result.size) == ('RGBA', (160, 120))
    expected = np.asarray(result)
    assert iou(expected[..., 3] / 255, mask) > 0.65
    alpha = inferencer(rgb, channel_order='rgb')
    np.testing.assert_array_equal(expected, cut_out(LoadedImage(rgb), alpha))
    sources = [rgb / 255, Image.fromarray(rgb), tmp_path / 'a.png', str(tmp_path / 'a.png'), png, io.BytesIO(png)]
    for source in sources:
        np.testing.assert_array_equal(np.asarray(remove_background(source, inferencer)), expected)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    np.testing.assert_array_equal(np.asarray(remove_background(bgr, inferencer, channel_order='bgr')), expected)


def test_url_limits(inferencer, drawing, png, tmp_path, monkeypatch):
    (tmp_path / 'a.png').write_bytes(png)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, 'log_message', lambda *_: None)
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}/a.png'
        with pytest.raises(PermissionError, match='not a public address'):
            remove_background(url, inferencer)
        with pytest.raises(ValueError, match='larger than the limit of 100 bytes'):
            remove_background(url, inferencer, allow_private_urls=True, max_bytes=100)
        found = remove_background(url, inferencer, allow_private_urls=True)
        server.shutdown()
    np.testing.assert_array_equal(np.asarray(found), np.asarray(remove_background(drawing[0], inferencer)))


def test_keywords(inferencer, drawing):
    rgb, _ = drawing
    whole = np.asarray(remove_background(rgb, inferencer))
    boxed = np.asarray(remove_background(rgb, inferencer, box=(0, 0, 80, 120), threshold=0.5))
    assert not boxed[:, 80:, 3].any()
    assert {*np.unique(boxed[..., 3])} == {0, 255}
    plain = np.asarray(remove_background(rgb, inferencer, estimate_foreground=False))
    with pytest.deprecated_call(match='estimate_foreground='):
        np.testing.assert_array_equal(np.asarray(remove_background(rgb, inferencer, foreground=False)), plain)
    np.testing.assert_array_equal(plain[..., 3], whole[..., 3])
    visible = plain[..., 3] > 0
    np.testing.assert_array_equal(plain[visible][:, :3], rgb[visible])
    assert (whole[visible][:, :3] != rgb[visible]).any()
    with pytest.raises(ValueError, match='threshold=2'):
        remove_background(rgb, inferencer, threshold=2)
    keywords = inspect.signature(remove_background).parameters.keys()
    assert {field.name for field in dataclasses.fields(Settings)} - {'batch_size'} <= keywords
    # Every keyword reaches the prediction.
    options = dict(flip=True, scales=(1.0, 1.5), margin=0.5, min_area=20.0, levels=(0.1, 0.9), largest=True)
    options |= dict(fill_holes=True, grow=2, feather=1.5, invert=True, input_size=64, box=(20, 10, 150, 110))
    image = LoadedImage(rgb)
    alpha = inferencer.predict_image(image, Settings(**options))
    np.testing.assert_array_equal(np.asarray(remove_background(rgb, inferencer, **options)), cut_out(image, alpha))


def test_the_color_profile_is_kept(inferencer, drawing):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
    image = Image.fromarray(drawing[0])
    image.info['icc_profile'] = profile
    buffer = io.BytesIO()
    remove_background(image, inferencer).save(buffer, 'png')
    assert Image.open(buffer).info['icc_profile'] == profile


@pytest.mark.soak
def test_models_are_kept_between_calls(trained_checkpoint, drawing, monkeypatch):
    config, checkpoint = trained_checkpoint
    loaded = []

    class Counted(BiRefNetInferencer):
        def __init__(self, model, device, dtype):
            loaded.append((model, dtype))
            super().__init__(config, model, device, dtype)

    monkeypatch.setattr(module, 'BiRefNetInferencer', Counted)
    module.cached_inferencer.cache_clear()
    for dtype in ('float32', 'float32', 'bfloat16', 'float32', 'bfloat16'):
        remove_background(drawing[0], checkpoint, device='cpu', dtype=dtype)
    module.cached_inferencer.cache_clear()
    assert loaded == [(str(checkpoint), 'float32'), (str(checkpoint), 'bfloat16')]


def test_importing_the_package_imports_nothing_heavy():
    code = 'import sys, mmbirefnet; assert not {"torch", "numpy", "PIL", "mmengine"} & sys.modules.keys()\n'
    code += (
        'from mmbirefnet import remove_background; assert callable(remove_background) and "torch" not in sys.modules'
    )
    subprocess.run([sys.executable, '-c', code], check=True)
