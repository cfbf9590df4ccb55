import cv2
import numpy as np
import pytest

from mmbirefnet.datasets import DIS5K_CLASSES, DIS5KDataset
from mmbirefnet.datasets.preparation import synthetic
from mmbirefnet.datasets.preparation.synthetic import OBJECT_NAMES, make_sample, write_dataset
from mmbirefnet.datasets.preparation.synthetic_objects import Canvas


def test_canvas_covers_the_exact_area():
    canvas = Canvas()
    canvas.disc((0, 0), 1.0)
    canvas.polygon([(-0.25, -0.25), (0.25, -0.25), (0.25, 0.25), (-0.25, 0.25)], shade=0)
    pixels = canvas.rasterize((800, 800), np.array([[300, 0, 400], [0, 300, 400]]))
    polygon_of_32 = 16 * np.sin(2 * np.pi / 32)
    assert (pixels > 0).sum() == pytest.approx((polygon_of_32 - 0.25) * 300**2, rel=0.005)
    low, high = canvas.bounds(np.diag([2.0, -1.0]))
    np.testing.assert_allclose([low, high], [[-2, -1], [2, 1]], atol=1e-9)


def test_strokes_have_their_width():
    canvas = Canvas()
    canvas.stroke([(0, 0), (100, 0)], 10)
    pixels = canvas.rasterize((40, 200), np.array([[1, 0, 20], [0, 1, 20]]))
    assert (pixels[:, 60] > 0).sum() == pytest.approx(10, abs=1)
    assert (pixels[20] > 0).sum() == pytest.approx(110, abs=1)  # round caps


def test_mask_is_the_blending_weight(monkeypatch):
    """Of a black object on white without shadow or noise, the image is the mask's complement."""
    monkeypatch.setattr(synthetic, 'draw_background', lambda rng, size: np.ones((*size, 3), np.float32))
    monkeypatch.setattr(synthetic, 'cast_shadow', lambda image, mask, rng: image)
    monkeypatch.setattr(synthetic, 'draw_surface', lambda rng, size: np.zeros((*size, 3), np.float32))
    sample = make_sample(0, 'DIS-TR', 0, (96, 128))
    assert sample.image.shape == (96, 128, 3)
    grain = sample.image.mean(-1) - (255.0 - sample.mask)
    assert abs(np.median(grain)) <= 1
    assert np.abs(grain).max() < 255 * 0.016 * 5
    assert len(np.unique(sample.mask)) > 40  # soft edges


@pytest.mark.soak
def test_every_kind_is_large_solid_enough_and_soft():
    for index in range(3 * len(OBJECT_NAMES)):
        sample = make_sample(1, 'DIS-VD', index, (256, 256))
        kind = OBJECT_NAMES[index % len(OBJECT_NAMES)]
        assert sample.stem == f'12#Synthetic#{index % len(OBJECT_NAMES) + 1}#{kind}#{index + 1:06d}'
        assert kind in DIS5K_CLASSES
        coverage = sample.mask.mean() / 255
        assert 0.1 < coverage < 0.55, sample.stem
        hard = (sample.mask > 127).astype(np.uint8)
        # Strokes are three pixels wide or more: an opening by 3x3 removes little.
        assert cv2.morphologyEx(hard, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)).sum() > 0.85 * hard.sum(), sample.stem
        rows, columns = np.nonzero(sample.mask)
        assert max(np.ptp(rows), np.ptp(columns)) > 0.8 * 256
        assert (sample.mask[[0, -1]] == 0).all()  # nothing is cut off
        assert (sample.mask[:, [0, -1]] == 0).all()
        assert ((sample.mask > 0) & (sample.mask < 255)).mean() > 0.01
        inside, outside = sample.image[sample.mask == 255].mean(0), sample.image[sample.mask == 0].mean(0)
        assert np.abs(inside - outside).max() > 25, sample.stem


def test_sample_depends_on_seed_set_and_index_alone():
    sample = make_sample(3, 'DIS-TR', 4, (64, 64))
    again = make_sample(3, 'DIS-TR', 4, (64, 64))
    np.testing.assert_array_equal(sample.image, again.image)
    np.testing.assert_array_equal(sample.mask, again.mask)
    for other in (make_sample(4, 'DIS-TR', 4, (64, 64)), make_sample(3, 'DIS-VD', 4, (64, 64))):
        assert other.stem == sample.stem
        assert (other.mask != sample.mask).mean() > 0.05
        assert (other.image != sample.image).mean() > 0.5


@pytest.mark.parametrize('size', [(96, 160), (160, 96)])
def test_objects_keep_their_shape_at_any_size(size):
    sample = make_sample(0, 'DIS-TR', 0, size)
    assert sample.mask.shape == size
    rows, columns = np.nonzero(sample.mask)
    ratio = np.ptp(rows) / np.ptp(columns)
    assert 0.75 < ratio < 1.35  # a wheel stays a wheel


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_written_set_loads_and_repeats(tmp_path):
    counts = {'DIS-TR': 3, 'DIS-VD': 2}
    written = list(write_dataset(tmp_path / 'a', counts, (48, 64), seed=2, threads=1))
    assert len(written) == 5
    list(write_dataset(tmp_path / 'b', {'DIS-VD': 4, 'DIS-TR': 3}, (48, 64), seed=2, threads=3))
    first, second = contents(tmp_path / 'a'), contents(tmp_path / 'b')
    assert set(first) < set(second)
    assert all(second[name] == data for name, data in first.items())
    assert 'DIS-TR/gt/12#Synthetic#3#Tree#000003.png' in first

    dataset = DIS5KDataset(data_root=str(tmp_path / 'a'), sets=['DIS-TR', 'DIS-VD'])
    infos = {info['img_path']: info for info in (dataset.get_data_info(i) for i in range(len(dataset)))}
    assert set(infos) == {str(path) for path in written}
    info = infos[str(written[0])]
    assert (info['class_name'], info['class_label']) == ('Wheel', DIS5K_CLASSES.index('Wheel'))
    sample = make_sample(2, 'DIS-TR', 0, (48, 64))
    np.testing.assert_array_equal(cv2.imread(info['seg_map_path'], cv2.IMREAD_UNCHANGED), sample.mask)
    written_grey = cv2.imread(info['img_path'], cv2.IMREAD_GRAYSCALE).astype(int)
    assert np.abs(written_grey - cv2.cvtColor(sample.image, cv2.COLOR_BGR2GRAY)).mean() < 4


def test_set_folder_that_is_not_empty_is_rejected(tmp_path):
    note = tmp_path / 'DIS-TR/note.txt'
    note.parent.mkdir()
    note.write_text('mine')
    with pytest.raises(FileExistsError, match=str(tmp_path / 'DIS-TR')):
        list(write_dataset(tmp_path, {'DIS-VD': 1, 'DIS-TR': 1}, (32, 32)))
    assert contents(tmp_path) == {'DIS-TR/note.txt': b'mine'}
    list(write_dataset(tmp_path, {'DIS-TR': 1}, (32, 32), overwrite=True))
    assert len(contents(tmp_path)) == 3
