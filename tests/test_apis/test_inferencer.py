"""What the inferencer does around a model, with a backend whose maps can be worked out by hand."""

import contextlib
import gc
import sys
import types
import weakref

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_backend import RedBackend
from PIL import Image

from mmbirefnet.apis import BiRefNetInferencer, Settings
from mmbirefnet.imaging.maps import resize_map
from mmbirefnet.imaging.sandbox import ImageDecoder

RNG = np.random.default_rng(0)


def drawing(height, width):
    return cv2.resize(RNG.integers(0, 256, (5, 6, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def expected_map(rgb, size):
    """OpenCV's resize to the model's size, and torch's back."""
    red = cv2.resize(rgb, size[::-1])[..., 0].astype(np.float32) / 255
    back = F.interpolate(torch.from_numpy(red)[None, None], rgb.shape[:2], mode='bilinear', align_corners=True)
    return back[0, 0].numpy()


@pytest.fixture
def red():
    return BiRefNetInferencer(backend=RedBackend())


def test_maps_at_original_size(red, tmp_path):
    rgb = drawing(50, 90)
    soft_map = red(rgb[..., ::-1])
    np.testing.assert_allclose(soft_map, expected_map(rgb, (32, 64)), atol=1e-5)
    Image.fromarray(rgb).save(tmp_path / 'a.png')
    for same in (str(tmp_path / 'a.png'), tmp_path / 'a.png', Image.fromarray(rgb), (tmp_path / 'a.png').read_bytes()):
        assert np.array_equal(red(same), soft_map)
    assert np.array_equal(red(rgb, channel_order='rgb'), soft_map)
    for several in (tmp_path, f'{tmp_path}/*.png', [tmp_path / 'a.png']):
        (one,) = red(several)
        assert np.array_equal(one, soft_map)
    levels = red(rgb, channel_order='rgb', dtype='uint8')
    assert np.array_equal(levels, (soft_map * 255).astype(np.uint8))
    with pytest.deprecated_call(match='dtype='):
        assert np.array_equal(red(rgb, channel_order='rgb', output='uint8'), levels)


def test_batches_contain_images_of_one_input_size():
    backend = RedBackend()
    images = [drawing(64, 64), drawing(96, 64), drawing(64, 64), drawing(64, 64), drawing(96, 64)]
    inferencer = BiRefNetInferencer(backend=backend)
    maps = inferencer(images, batch_size=4, input_size='image')
    assert backend.shapes == [(3, 64, 64), (1, 96, 64), (1, 96, 64)]
    for image, soft_map in zip(images, maps):
        assert np.array_equal(soft_map, image[..., 2] / np.float32(255))  # resized neither way
    backend.shapes.clear()
    inferencer(images, batch_size=2)
    assert backend.shapes == [(2, 32, 64), (2, 32, 64), (1, 32, 64)]
    limited = RedBackend(max_batch=2)
    BiRefNetInferencer(backend=limited)(images, batch_size=5)
    assert limited.shapes == [(2, 32, 64), (2, 32, 64), (1, 32, 64)]


def test_flip_and_scales_are_averaged():
    class Uneven(RedBackend):
        def __call__(self, images):
            return super().__call__(images) * np.linspace(0, 1, images.shape[2], dtype=np.float32)

    rgb = drawing(40, 70)
    inferencer = BiRefNetInferencer(backend=Uneven())
    views = []
    for size in ((32, 64), (64, 128)):
        resized = cv2.resize(rgb, size[::-1])
        for image in (resized, resized[:, ::-1]):
            soft_map = image[..., 0] / np.float32(255) * np.linspace(0, 1, size[1], dtype=np.float32)
            views.append(resize_map(soft_map if image is resized else soft_map[:, ::-1], (40, 70)))
    expected = np.mean(views, 0)
    result = inferencer(rgb[..., ::-1], flip=True, scales=(1, 2))
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert np.abs(result - inferencer(rgb[..., ::-1])).max() > 0.1


def test_box(red):
    rgb = drawing(60, 100)
    soft_map = red(rgb[..., ::-1], box=(20, 10, 60, 40), margin=0.25)
    crop = expected_map(rgb[2:48, 10:70], (32, 64))  # 0.25 of 40 and of 30 pixels, up to whole pixels
    expected = np.zeros((60, 100), np.float32)
    expected[10:40, 20:60] = crop[8:38, 10:50]
    np.testing.assert_allclose(soft_map, expected, atol=1e-5)
    with pytest.raises(ValueError, match=r'inputs.0.: box=\(200.*outside'):
        red(rgb, box=(200, 10, 300, 40))


def test_threshold_and_small_components(red):
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[10:40, 10:40] = 200
    rgb[50:53, 50:53] = 255
    options = dict(input_size=64)
    assert np.array_equal(red(rgb, threshold=0.5, **options), (rgb[..., 0] > 0).astype(np.float32))
    assert np.array_equal(red(rgb, threshold=0.8, **options) > 0, rgb[..., 0] == 255)
    large = np.zeros((64, 64), np.float32)
    large[10:40, 10:40] = 200 / 255
    np.testing.assert_allclose(red(rgb, min_area=10, **options), large)
    np.testing.assert_allclose(red(rgb, min_area=0.01, **options), large)


def test_transparent_pixels_are_gray_for_the_model(red):
    rgba = np.zeros((32, 64, 4), np.uint8)
    rgba[..., 2] = 255  # red throughout, in BGR
    rgba[:, 32:, 3] = 255
    soft_map = red(rgba)
    assert (soft_map[:, 32:] == 1).all()
    np.testing.assert_allclose(soft_map[:, :32], 128 / 255)


def test_fixed_size_is_respected():
    inferencer = BiRefNetInferencer(backend=RedBackend(fixed_size=True, name='model.onnx'))
    assert inferencer(drawing(20, 20)).shape == (20, 20)
    for options in (dict(input_size=96), dict(scales=(1, 2))):
        with pytest.raises(ValueError, match=r'model\.onnx: takes only images of 32x64 '):
            inferencer(drawing(20, 20), **options)


def test_call_writes_files_and_returns_maps(red, tmp_path):
    for name in ('in/a.png', 'in/sub/b.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(drawing(20, 30)).save(tmp_path / name)
    maps = red(tmp_path / 'in', tmp_path / 'in/out', save=('mask', 'cutout'))
    again = red(tmp_path / 'in', tmp_path / 'in/out', save=('mask', 'cutout'))  # what was written is no input
    assert len(maps) == len(again) == 2
    written = sorted(str(path.relative_to(tmp_path / 'in/out')) for path in (tmp_path / 'in/out').rglob('*.png'))
    assert written == ['cutout/a.png', 'cutout/sub/b.png', 'mask/a.png', 'mask/sub/b.png']
    mask = np.asarray(Image.open(tmp_path / 'in/out/mask/sub/b.png'))
    assert np.array_equal(mask, (maps[1] * 255).astype(np.uint8))
    red([drawing(9, 9), drawing(9, 9)], tmp_path / 'arrays')
    assert sorted(path.name for path in (tmp_path / 'arrays').iterdir()) == ['000000.png', '000001.png']
    with pytest.raises(FileExistsError):
        red(drawing(9, 9), tmp_path / 'arrays', overwrite=False)


def test_errors_stop_it_or_are_handed_over(tmp_path):
    class Picky(RedBackend):
        def __call__(self, images):
            if (images == 77).all((1, 2, 3)).any():
                raise RuntimeError('cannot do this one')
            return super().__call__(images)

    inferencer = BiRefNetInferencer(backend=Picky())
    (tmp_path / 'bad.png').write_text('bad')
    inputs = [drawing(8, 8), tmp_path / 'bad.png', np.full((8, 8), 77, np.uint8), drawing(8, 8)]
    with pytest.raises(OSError, match=r'bad\.png'):
        inferencer(inputs, batch_size=4)
    errors = []
    done = list(
        inferencer.predict(
            inputs, Settings(batch_size=4), on_error=lambda source, error: errors.append((source.name, str(error)))
        )
    )
    assert [prediction.source.name for prediction in done] == ['inputs[0]', 'inputs[3]']
    assert errors[0][0] == str(tmp_path / 'bad.png')
    assert errors[1] == ('inputs[2]', 'cannot do this one')


def test_wrong_options(red):
    with pytest.raises(ValueError, match="dtype='png'"):
        red(drawing(8, 8), dtype='png')
    with pytest.raises(ValueError, match='input_size=33'):
        red(drawing(8, 8), input_size=33)
    with pytest.raises(TypeError, match='color'):
        red(drawing(8, 8), color=3)


def test_video_is_refused_with_the_way_to_go(red):
    with pytest.raises(ValueError, match=r'film\.mp4: is a video.*mmbirefnet video.*mmbirefnet\.video'):
        red('film.mp4', 'out')


def test_files_are_read_in_worker_processes_if_asked_for(red, tmp_path):
    Image.fromarray(drawing(20, 30)).save(tmp_path / 'a.png')
    (tmp_path / 'notes.txt').touch()
    with ImageDecoder(seconds=60, max_pixels=700) as decoder:
        assert np.array_equal(red(tmp_path / 'a.png', decoder=decoder), red(tmp_path / 'a.png'))
        assert np.array_equal(red((tmp_path / 'a.png').read_bytes(), decoder=decoder), red(tmp_path / 'a.png'))
        Image.fromarray(drawing(30, 30)).save(tmp_path / 'a.png')
        with (
            pytest.raises(ValueError, match=r'a\.png: 30x30 pixels, more than the limit of 700'),
            pytest.warns(UserWarning, match=r'1 images; left out, not an image by its suffix: 1 \(.*notes\.txt'),
        ):
            red(tmp_path, decoder=decoder)
    with pytest.raises(ValueError, match=r'a\.png: 30x30 pixels, more than the limit of 899'):
        red(tmp_path / 'a.png', max_pixels=899)
    assert red(tmp_path / 'a.png', max_pixels=900).shape == (30, 30)


def test_an_error_while_writing_is_raised(red, tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a/000001.png').mkdir()  # a folder where the file has to be
    with pytest.raises(OSError, match='000001'):
        red([drawing(9, 9), drawing(9, 9)], tmp_path / 'a')


def test_errors_keep_no_images(tmp_path):
    """Nothing waits for the garbage collector, with which a service would run out of memory."""
    (tmp_path / 'bad.png').write_text('bad')
    image = drawing(9, 9)
    kept = weakref.ref(image)
    inferencer = BiRefNetInferencer(backend=RedBackend())
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(OSError):
            inferencer([image, tmp_path / 'bad.png'], batch_size=2)
        del image
        assert kept() is None
    finally:
        gc.enable()


def test_background_alone_writes_a_composite(red, tmp_path):
    red(np.zeros((8, 8, 3), np.uint8), tmp_path, background=(0, 0, 255))
    assert Image.open(tmp_path / '000000.png').getpixel((3, 3)) == (0, 0, 255)


def test_former_names(red, tmp_path):
    rgb = drawing(50, 90)
    options = dict(save=('cutout', 'foreground'), channel_order='rgb')
    with pytest.deprecated_call(match='foreground= is now called estimate_foreground='):
        red(rgb, tmp_path, foreground=False, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['cutout', 'foreground']
    cutout = np.asarray(Image.open(tmp_path / 'cutout/000000.png'))
    visible = cutout[..., 3] > 0
    assert np.array_equal(cutout[visible][:, :3], rgb[visible])
    with pytest.deprecated_call(match='compose_device'):
        assert red.foreground_device is red.compose_device is None


@pytest.mark.parametrize('size', [(1, 1), (1, 300), (257, 2)])
def test_tiny_and_narrow_images(red, tmp_path, size):
    for input_size in (None, 'image'):
        soft_map = red(np.full((*size, 3), 51, np.uint8), tmp_path, input_size=input_size)
        np.testing.assert_allclose(soft_map, np.full(size, 0.2), atol=1e-6)
        assert Image.open(tmp_path / '000000.png').size == size[::-1]


def test_onnx_models_have_a_backend_of_their_own(monkeypatch, tmp_path):
    made = []
    stub = types.ModuleType('onnx_backend')
    stub.OnnxBackend = lambda *words: made.append(words) or RedBackend()
    monkeypatch.setitem(sys.modules, 'mmbirefnet.apis.onnx_backend', stub)
    (tmp_path / 'b.onnx').touch()
    monkeypatch.setenv('MMBIREFNET_CHECKPOINT', str(tmp_path / 'b.onnx'))
    BiRefNetInferencer('a.onnx')
    BiRefNetInferencer('a.onnx', device='cpu')
    BiRefNetInferencer(device='cuda')
    BiRefNetInferencer(weights=tmp_path / 'b.onnx', providers=['X'])
    assert made == [
        ('a.onnx', None),
        ('a.onnx', ['CPUExecutionProvider']),
        (tmp_path / 'b.onnx', ['CUDAExecutionProvider', 'CPUExecutionProvider']),
        (tmp_path / 'b.onnx', ['X']),
    ]
    for options, message in ((dict(device='cuda:3'), "device='cuda:3'"), (dict(dtype='float16'), "dtype='float16'")):
        with pytest.raises(ValueError, match=message):
            BiRefNetInferencer('a.onnx', **options)
