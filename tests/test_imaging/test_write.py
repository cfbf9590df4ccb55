import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from mmbirefnet.apis.inferencer import Prediction
from mmbirefnet.imaging.compose import composite, cut_out, fit_background, read_background
from mmbirefnet.imaging.read import LoadedImage
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


def test_all_kinds(prediction, tmp_path):
    writer = OutputWriter(tmp_path, ('mask', 'cutout', 'foreground'), background='#102030', foreground=False)
    writer.plan([prediction.source])
    mask, cutout, foreground = writer.write(prediction)
    assert [str(path.relative_to(tmp_path)) for path in (mask, cutout, foreground)] == [
        'mask/sub/a.png',
        'cutout/sub/a.png',
        'foreground/sub/a.jpg',
    ]
    soft_map, rgb = prediction.soft_map, prediction.image.rgb
    assert np.array_equal(np.asarray(Image.open(mask)), (soft_map * 255).astype(np.uint8))
    with Image.open(cutout) as image:
        assert image.info['icc_profile'] == SRGB
        assert np.array_equal(np.asarray(image), np.dstack([rgb, np.rint(soft_map * 255).astype(np.uint8)]))
    with Image.open(foreground) as image:
        assert image.format == 'JPEG'
        assert image.info['icc_profile'] == SRGB
    assert sorted(path.suffix for path in tmp_path.rglob('*') if path.is_file()) == ['.jpg', '.png', '.png']


@pytest.mark.parametrize('suffix', ['png', 'webp', 'tif'])
def test_formats_with_alpha_are_exact(suffix, prediction, tmp_path):
    pixels = cut_out(prediction.image, prediction.soft_map)
    save_image(pixels, tmp_path / f'x.{suffix}', SRGB)
    with Image.open(tmp_path / f'x.{suffix}') as image:
        assert np.array_equal(np.asarray(image), pixels)
        assert image.info['icc_profile'] == SRGB


def test_transparency_of_the_picture_is_kept():
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


def test_background_covers_without_distortion():
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 15:25] = 255  # its middle square
    assert (fit_background(LoadedImage(wide), (20, 20)) > 240)[:, 4:-4].all()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'save': ('mask', 'film')}, 'film.*mask, cutout, foreground'),
        ({'save': ()}, 'must be one or several'),
        ({'format': 'gif'}, "format='gif'"),
        ({'format': 'jpg'}, 'alpha'),
        ({'single_file': True, 'save': ('mask', 'cutout')}, 'one file'),
        ({'single_file': True, 'format': 'webp'}, 'another format'),
    ],
)
def test_wrong_options(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        OutputWriter(tmp_path / 'x.png', **options)


def test_nothing_is_lost_by_mistake(prediction, tmp_path):
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


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError('No space left on device')

    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError, match=r'x\.png: cannot be written \(No space'):
        save_image(np.zeros((2, 2), np.uint8), tmp_path / 'x.png')
    assert not any(tmp_path.iterdir())
