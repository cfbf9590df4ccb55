"""What ruins a training: inverted and unturned masks, and images that are in training and validation."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmbirefnet.cli.main import main
from mmbirefnet.datasets.folder import held_out_stems
from mmbirefnet.datasets.preparation.check import check_sets, ruinous
from mmbirefnet.datasets.preparation.find_sets import find_data_folder
from mmbirefnet.datasets.preparation.synthetic import make_sample


def write(folder, stem, image, mask, quality=95, names=('im', 'gt'), ending=''):
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / names[0] / f'{stem}.jpg'), image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    cv2.imwrite(str(folder / names[1] / f'{stem}{ending}.png'), mask)


@pytest.fixture(scope='module')
def samples():
    return [make_sample(0, 'own', index, (96, 128)) for index in range(12)]


def found(folder, **options):
    reports = check_sets(str(folder), processes=1, **options)
    return {(problem.kind, Path(problem.path).stem) for report in reports.values() for problem in report.problems}


def test_synthetic_samples_have_no_problems(tmp_path, samples):
    for index, sample in enumerate(samples):
        write(tmp_path, index, sample.image, sample.mask)
    assert found(tmp_path) == set()


def test_inverted(tmp_path, samples, capsys):
    for index, sample in enumerate(samples[:4]):
        write(tmp_path, index, sample.image, 255 - sample.mask if index == 2 else sample.mask)
    write(tmp_path, 'full', samples[5].image, np.full_like(samples[5].mask, 255))  # fills the image, not inverted
    assert found(tmp_path) == {('inverted', '2')}
    assert not ruinous(check_sets(str(tmp_path), processes=1))
    sheet = tmp_path / 'sheet.png'
    assert main(['check', str(tmp_path), '--processes', '1', '--sheet', str(sheet)]) == 1
    assert '2.png: inverted: white along the border' in capsys.readouterr().out
    assert cv2.imread(str(sheet)).shape[1] == 3 * 200 + 2 * 4

    for index, sample in enumerate(samples[:4]):
        write(tmp_path, index, sample.image, 255 - sample.mask)
    assert len(ruinous(check_sets(str(tmp_path), processes=1))) == 4  # of five


@pytest.mark.parametrize(('orientation', 'stored'), [(6, np.rot90), (3, lambda x: x[::-1, ::-1]), (2, np.fliplr)])
def test_masks_that_ignore_the_exif_orientation_are_found(tmp_path, orientation, stored):
    """The image is stored turned, with the orientation that turns it back; its mask as the pixels are stored."""
    for index in range(3):
        mask = np.zeros((96, 128), np.uint8)
        mask[10:80, 15 + 5 * index : 30 + 5 * index] = mask[65:80, 15 + 5 * index : 60 + 9 * index] = 255  # an L
        image = cv2.GaussianBlur(np.random.default_rng(index).integers(60, 120, (96, 128, 3), np.uint8), (0, 0), 2)
        image[mask > 0] += 100
        write(tmp_path, index, image, mask if index == 0 else np.ascontiguousarray(stored(mask)))
        exif = Image.Exif()
        exif[0x0112] = orientation
        pixels = np.ascontiguousarray(stored(image[..., ::-1]))
        Image.fromarray(pixels).save(tmp_path / f'im/{index}.jpg', exif=exif, quality=95)
    assert found(tmp_path) == {('unturned', '1'), ('unturned', '2')}
    assert len(ruinous(check_sets(str(tmp_path), processes=1))) == 2


def test_near_duplicates_of_training_and_validation(tmp_path, samples):
    for index, sample in enumerate(samples[:6]):
        write(tmp_path / ('train' if index < 4 else 'val'), index, sample.image, sample.mask)
    # The second training image in the validation set, smaller, brighter and compressed
    image, mask = (cv2.resize(pixels, (100, 76)) for pixels in (samples[1].image, samples[1].mask))
    write(tmp_path / 'val', 'again', np.clip(image * 1.1, 0, 255).astype(np.uint8), mask, quality=60)
    write(tmp_path / 'train', 'twice', cv2.GaussianBlur(samples[2].image, (0, 0), 1), samples[2].mask)
    assert found(tmp_path) == {('near-duplicate', 'again')}  # within a set it does no harm


def test_near_duplicates_of_held_out_images(tmp_path, samples):
    stems = [str(index) for index in range(10)]
    (held_out,) = held_out_stems(stems, 0.1)
    for stem, sample in zip(stems, samples):
        write(tmp_path, stem, sample.image, sample.mask)
    other = next(stem for stem in stems if stem != held_out)
    source = samples[int(held_out)]
    write(tmp_path, other, cv2.GaussianBlur(source.image, (0, 0), 0.8), source.mask)
    assert {kind for kind, _ in found(tmp_path)} == {'near-duplicate'}


def test_other_folder_names_and_a_mask_suffix(tmp_path, samples):
    for index, sample in enumerate(samples[:3]):
        write(tmp_path, index, sample.image, sample.mask, names=('Images', 'Masks'), ending='_mask')
    assert found(tmp_path) == set()
    folder = find_data_folder(tmp_path)
    assert folder.prefix == dict(img_path='Images', seg_map_path='Masks')
    assert folder.mask_ending == '_mask'
    assert folder.stems == ['0', '1', '2']
    (tmp_path / 'Masks/1_mask.png').unlink()
    assert found(tmp_path) == {('no-mask', '1')}


def test_forms_of_data(tmp_path, samples):
    for name in ('training', 'valid', 'extra'):
        write(tmp_path / 'data' / name, 'a', samples[0].image, samples[0].mask, names=('image', 'alpha'))
    folder = find_data_folder(tmp_path / 'data')
    assert (folder.root, folder.val_root) == (f'{tmp_path}/data/training', f'{tmp_path}/data/valid')
    assert find_data_folder(tmp_path / 'data', tmp_path / 'data/extra').val_root == f'{tmp_path}/data/extra'
    with pytest.raises(FileNotFoundError, match=r'expected a folder of images \(im, .*found data/'):
        find_data_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match='no such folder'):
        find_data_folder(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match=r'expected image/ and alpha/ to validate on'):
        find_data_folder(tmp_path / 'data/training', tmp_path)
