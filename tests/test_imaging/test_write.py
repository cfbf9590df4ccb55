import gc
import json
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from mmbirefnet.apis.inferencer import Prediction
from mmbirefnet.imaging import foreground, write
from mmbirefnet.imaging.compose import compose, compose_all, composite, cut_out, fit_background, read_background
from mmbirefnet.imaging.read import LoadedImage, load_image
from mmbirefnet.imaging.sources import Source, list_sources
from mmbirefnet.imaging.write import OutputWriter, save_image

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def source(key):
    return Source(Path('/nowhere') / key, Path(key), key)


def names(writer, keys):
    sources = [source(key) for key in keys]
    writer.plan(sources)
    return [str(writer.targets(each)['cutout'].relative_to(writer.out_dir)) for each in sources]


def test_names_do_not_collide(tmp_path):
    writer = OutputWriter(tmp_path)
    assert names(writer, ['a.jpg', 'b.c.png', 'sub/a.jpg', 'noext']) == ['a.png', 'b.c.png', 'sub/a.png', 'noext.png']
    assert names(writer, ['a.jpg', 'a.png', 'b.png']) == ['a_jpg.png', 'a_png.png', 'b.png']
    assert names(writer, ['a.jpg', 'A.png']) == ['a_jpg.png', 'A_png.png']
    # One is called what another becomes; two of the very same name.
    assert names(writer, ['a.jpg', 'a.png', 'a_jpg.png']) == ['a_jpg.png', 'a_png.png', 'a_jpg-2.png']
    assert names(writer, ['a.jpg', 'a.jpg', 'a_jpg-2.gif']) == ['a_jpg.png', 'a_jpg-3.png', 'a_jpg-2.png']


def test_names_stay_below_the_folder(tmp_path):
    assert names(OutputWriter(tmp_path), ['../../x.jpg', 'a/../../y.png', 'b/../z.png']) == ['x.png', 'y.png', 'z.png']


@pytest.fixture
def prediction(tmp_path):
    rng = np.random.default_rng(0)
    image = LoadedImage(rng.integers(0, 256, (6, 8, 3), np.uint8), None, SRGB)
    return Prediction(source('sub/a.jpg'), image, rng.random((6, 8), np.float32))


def test_all_outputs_are_written(prediction, tmp_path):
    writer = OutputWriter(tmp_path, ('mask', 'cutout', 'composite'), background='#102030', estimate_foreground=False)
    writer.plan([prediction.source])
    mask, cutout, opaque = writer.write(prediction)
    assert [str(path.relative_to(tmp_path)) for path in (mask, cutout, opaque)] == [
        'mask/sub/a.png',
        'cutout/sub/a.png',
        'composite/sub/a.jpg',
    ]
    soft_map, rgb = prediction.soft_map, prediction.image.rgb
    assert np.array_equal(np.asarray(Image.open(mask)), (soft_map * 255).astype(np.uint8))
    with Image.open(cutout) as image:
        assert image.info['icc_profile'] == SRGB
        assert np.array_equal(np.asarray(image), np.dstack([rgb, np.rint(soft_map * 255).astype(np.uint8)]))
    with Image.open(opaque) as image:
        assert image.format == 'JPEG'
        assert image.info['icc_profile'] == SRGB
    assert sorted(path.suffix for path in tmp_path.rglob('*') if path.is_file()) == ['.jpg', '.png', '.png']


@pytest.mark.parametrize('suffix', ['avif', 'heic'])
def test_lossy_formats_keep_alpha_and_profile(tmp_path, suffix):
    """Read back, everything is near what was written, for all kinds."""
    pytest.importorskip('pillow_heif' if suffix == 'heic' else 'PIL._avif')
    ramp = np.linspace(0, 255, 96).astype(np.uint8)
    rgb = np.dstack([np.tile(ramp, (64, 1)), np.full((64, 96), 90, np.uint8), np.tile(ramp[::-1], (64, 1))])
    alpha = np.tile(np.linspace(0, 1, 64, dtype=np.float32)[:, None], (1, 96))
    each = Prediction(source('a.jpg'), LoadedImage(rgb, None, SRGB), alpha)
    writer = OutputWriter(
        tmp_path, ('mask', 'cutout', 'composite'), format=suffix, estimate_foreground=False, background='#204060'
    )
    writer.plan([each.source])
    mask, cutout, opaque = map(load_image, writer.write(each))
    levels = (alpha * 255).astype(np.int16)
    assert np.abs(mask.rgb[..., 0] - levels).max() <= 3
    assert np.abs(cutout.alpha - levels).max() <= 3
    assert cutout.icc_profile == opaque.icc_profile == SRGB
    assert np.abs(cutout.rgb.astype(int) - rgb)[1:].mean() < 4
    expected = composite(np.dstack([rgb, np.rint(alpha * 255).astype(np.uint8)]), (0x20, 0x40, 0x60))
    assert np.abs(opaque.rgb.astype(int) - expected).mean() < 4


def test_former_name_of_composites(prediction, tmp_path):
    """The folder keeps the name that was asked for."""
    options = dict(background='#102030', format='png')
    with pytest.deprecated_call(match="'foreground' is now called 'composite'"):
        old = OutputWriter(tmp_path, ('cutout', 'foreground'), **options)
    with pytest.deprecated_call(match='foreground= is now called estimate_foreground='):
        plain = OutputWriter(tmp_path / 'plain', 'cutout', foreground=False)
    assert not plain.estimate_foreground
    new = OutputWriter(tmp_path, ('cutout', 'composite'), **options)
    for writer in (old, new):
        writer.plan([prediction.source])
    paths = old.write(prediction)[1], new.write(prediction)[1]
    assert [str(path.relative_to(tmp_path)) for path in paths] == ['foreground/sub/a.png', 'composite/sub/a.png']
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize('suffix', ['png', 'webp', 'tif'])
def test_formats_with_alpha_are_exact(suffix, prediction, tmp_path):
    pixels = cut_out(prediction.image, prediction.soft_map)
    save_image(pixels, tmp_path / f'x.{suffix}', SRGB)
    with Image.open(tmp_path / f'x.{suffix}') as image:
        assert np.array_equal(np.asarray(image), pixels)
        assert image.info['icc_profile'] == SRGB


def test_transparency_of_the_image_is_kept():
    image = LoadedImage(np.full((1, 3, 3), 100, np.uint8), np.array([[0, 51, 255]], np.uint8))
    assert cut_out(image, np.ones((1, 3), np.float32))[0, :, 3].tolist() == [0, 51, 255]
    assert cut_out(image, np.full((1, 3), 0.5, np.float32))[0, :, 3].tolist() == [0, 26, 128]


def test_composite():
    cutout = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]]], np.uint8)
    assert composite(cutout, (0, 50, 255)).tolist() == [
        [[200, 100, 0], [0, 50, 255], [40, 60, 204]]
    ]  # 51 / 255 = 1 / 5


def test_backgrounds(tmp_path):
    assert read_background(None) == (255, 255, 255)
    assert read_background('lime') == (0, 255, 0)
    assert read_background('#0a0b0c') == (10, 11, 12)
    assert read_background([1, 2, 3]) == (1, 2, 3)
    Image.new('RGB', (40, 10), (9, 8, 7)).save(tmp_path / 'b.png')
    fitted = fit_background(read_background(tmp_path / 'b.png'), (30, 20))
    assert fitted.shape == (30, 20, 3)
    assert (fitted == [9, 8, 7]).all()
    for wrong in ('no-such-color', (1, 2), (1, 2, 300)):
        with pytest.raises(ValueError, match='background='):
            read_background(wrong)
    with pytest.raises(FileNotFoundError):
        read_background(tmp_path / 'gone.png')


@pytest.mark.parametrize('wrong', ['#ff000080', 'rgba(1, 2, 3, 0)', '#f008', 'rgb(999, 0, 0)', 'hsl(0, 900%, 50%)'])
def test_colors_with_alpha_or_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r'not opaque|out of range'):
        read_background(wrong)


def test_notations_of_opaque_colors():
    assert read_background('#ff0000ff') == read_background('rgb(255, 0, 0)') == (255, 0, 0)
    assert read_background((np.uint8(1), 2, 3)) == (1, 2, 3)


def test_background_is_brought_into_the_color_space_of_the_image(tmp_path):
    """With a profile whose red is green, and the other way round, a red background is written as green."""
    swapped = swapped_profile()
    image = LoadedImage(np.zeros((4, 4, 3), np.uint8), None, swapped)
    nothing = np.zeros((4, 4), np.float32)
    red = Image.new('RGB', (4, 4), (255, 0, 0))
    red.save(tmp_path / 'red.png')
    red.save(tmp_path / 'same.png', icc_profile=swapped)
    for background in ('red', tmp_path / 'red.png'):
        pixels = compose('composite', image, nothing, read_background(background))
        assert np.abs(pixels.astype(int) - [0, 255, 0]).max() <= 3
    pixels = compose('composite', image, nothing, read_background(tmp_path / 'same.png'))
    assert (pixels == [255, 0, 0]).all()
    without = LoadedImage(np.zeros((4, 4, 3), np.uint8))
    pixels = compose('composite', without, nothing, read_background(tmp_path / 'same.png'))
    assert np.abs(pixels.astype(int) - [0, 255, 0]).max() <= 3


def swapped_profile() -> bytes:
    """The sRGB profile with the tags of its red and green columns exchanged."""
    profile = bytearray(SRGB)
    for entry in range(132, 132 + 12 * int.from_bytes(profile[128:132], 'big'), 12):
        name = bytes(profile[entry : entry + 4])
        profile[entry : entry + 4] = {b'rXYZ': b'gXYZ', b'gXYZ': b'rXYZ'}.get(name, name)
    return bytes(profile)


@pytest.mark.parametrize('estimated', [False, True])
def test_nothing_of_the_old_background_is_left_under_alpha_0(estimated):
    image = LoadedImage(np.full((20, 20, 3), 200, np.uint8))
    alpha = np.zeros((20, 20), np.float32)
    alpha[5:10, 5:10], alpha[5:10, 10] = 1, 0.001  # the last one is 0 in 8 bits
    cutout = compose('cutout', image, alpha, estimate_foreground=estimated)
    assert not cutout[cutout[..., 3] == 0].any()
    assert (cutout[5:10, 5:10] == [200, 200, 200, 255]).all()
    assert (image.rgb == 200).all()


def test_foreground_is_estimated_once_for_all_kinds(prediction, tmp_path, monkeypatch):
    calls = []
    estimate = foreground.estimate_foreground
    monkeypatch.setattr(
        'mmbirefnet.imaging.compose.estimate_foreground', lambda *w, **o: calls.append(1) or estimate(*w, **o)
    )
    writer = OutputWriter(tmp_path, ('mask', 'cutout', 'composite'))
    writer.plan([prediction.source])
    writer.write(prediction)
    assert len(calls) == 1


def test_arrays_are_freed_without_the_garbage_collector(prediction, tmp_path):
    gc.collect()
    gc.disable()
    try:
        writer = OutputWriter(tmp_path, ('mask', 'cutout', 'composite'), background='red')
        writer.plan([prediction.source])
        writer.write(prediction)
        outputs = compose_all(('mask', 'cutout', 'composite'), prediction.image, prediction.soft_map)
        arrays = [weakref.ref(array) for array in (*outputs.values(), prediction.image.rgb, prediction.soft_map)]
        del outputs
        prediction.image.rgb = None
        assert [array() is None for array in arrays] == [True] * 4 + [False]
    finally:
        gc.enable()


@pytest.mark.parametrize(('suffix', 'side'), [('webp', 16384), ('jpg', 65501)])
def test_sides_that_a_format_cannot_hold(suffix, side, tmp_path):
    with pytest.raises(ValueError, match=rf'x\.{suffix}: {suffix} holds sides up to .* not 1x{side}. Fix: use png'):
        save_image(np.zeros((side, 1), np.uint8), tmp_path / f'x.{suffix}')
    assert not any(tmp_path.iterdir())


def test_crop_to_the_object(tmp_path):
    image = LoadedImage(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3))
    alpha = np.full((20, 30), 0.01, np.float32)  # a haze that is not the object
    alpha[5:15, 10:20] = 1
    each = source('a.png')
    writer = OutputWriter(tmp_path, ('cutout', 'mask'), estimate_foreground=False, crop=0.1, overwrite=False)
    writer.plan([each])
    cutout, mask = writer.write(Prediction(each, image, alpha))
    expected = compose('cutout', image, alpha, estimate_foreground=False)[4:16, 9:21]
    assert np.array_equal(np.asarray(Image.open(cutout)), expected)
    assert Image.open(mask).size == (12, 12)
    box = json.loads((tmp_path / 'cutout/a.png.json').read_text())
    assert box == dict(left=9, top=4, right=21, bottom=16, image_width=30, image_height=20)
    mask.unlink()
    cutout.unlink()
    with pytest.raises(FileExistsError, match=r'a\.png\.json: exists'):
        writer.write(Prediction(each, image, alpha))
    with pytest.raises(ValueError, match='crop=-1'):
        OutputWriter(tmp_path, crop=-1)


def test_background_covers_without_distortion():
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 255  # its middle square
    assert (fit_background(LoadedImage(wide), (20, 20)) > 240)[:, 4:-4].all()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'save': ('mask', 'film')}, 'film.*mask, cutout, composite'),
        ({'save': ()}, 'must be one or several'),
        ({'format': 'bmp'}, "format='bmp'"),
        ({'format': 'jpg'}, 'alpha'),
        ({'single_file': True, 'save': ('mask', 'cutout')}, 'one file'),
        ({'single_file': True, 'format': 'webp'}, 'does not match format'),
    ],
)
def test_wrong_options(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        OutputWriter(tmp_path / 'x.png', **options)


def test_existing_files_inputs_and_linked_folders_are_not_replaced(prediction, tmp_path):
    """Files that exist, inputs, and folders that a link leads to."""
    Image.new('RGB', (8, 6)).save(tmp_path / 'a.png')
    (own,) = list_sources(tmp_path / 'a.png')
    writer = OutputWriter(tmp_path)
    writer.plan([own])
    with pytest.raises(ValueError, match=r'a\.png: is an input'):
        writer.write(Prediction(own, prediction.image, prediction.soft_map))

    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/a.png').write_text('mine')
    writer = OutputWriter(tmp_path / 'out', overwrite=False)
    writer.plan([own])
    assert writer.existing(own) == [tmp_path / 'out/a.png']
    with pytest.raises(FileExistsError, match=r'out/a\.png: exists'):
        writer.write(Prediction(own, prediction.image, prediction.soft_map))
    assert (tmp_path / 'out/a.png').read_text() == 'mine'

    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'out/sub').symlink_to(tmp_path / 'elsewhere')
    writer.plan([prediction.source])
    with pytest.raises(ValueError, match='lies outside'):
        writer.write(prediction)
    assert not any((tmp_path / 'elsewhere').iterdir())


def test_a_file_that_appears_during_the_write_is_kept(prediction, tmp_path, monkeypatch):
    writer = OutputWriter(tmp_path, 'mask', overwrite=False)
    writer.plan([prediction.source])
    target = writer.targets(prediction.source)['mask']
    target.parent.mkdir()
    encode = write.encode_image

    def encode_while_another_writes(*words):
        target.write_text('theirs')
        return encode(*words)

    monkeypatch.setattr(write, 'encode_image', encode_while_another_writes)
    with pytest.raises(FileExistsError, match=r'a\.png: already exists'):
        writer.write(prediction)
    assert target.read_text() == 'theirs'
    assert list(target.parent.iterdir()) == [target]


def test_a_link_that_leads_nowhere_is_kept(prediction, tmp_path):
    writer = OutputWriter(tmp_path, 'mask', overwrite=False)
    writer.plan([prediction.source])
    target = writer.targets(prediction.source)['mask']
    target.parent.mkdir()
    target.symlink_to(tmp_path / 'nowhere')
    assert writer.existing(prediction.source) == [target]
    with pytest.raises(FileExistsError):
        writer.write(prediction)
    with pytest.raises(FileExistsError):
        save_image(np.zeros((2, 2), np.uint8), target, overwrite=False)
    save_image(np.zeros((2, 2), np.uint8), target)  # replaces the link, and does not follow it
    assert not target.is_symlink()
    assert not (tmp_path / 'nowhere').exists()


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError('No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError, match=r'x\.png: cannot be written \(No space'):
        save_image(np.zeros((2, 2), np.uint8), tmp_path / 'x.png')
    assert not any(tmp_path.iterdir())
