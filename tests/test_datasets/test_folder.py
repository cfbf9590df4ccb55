"""One's own images: the two forms of a folder, and which images are held out."""

import zlib

import cv2
import numpy as np
import pytest

from mmbirefnet.registry import DATASETS


def write(folder, stems) -> None:
    for name in ('im', 'gt'):
        (folder / name).mkdir(parents=True)
        for stem in stems:
            cv2.imwrite(str(folder / name / f'{stem}.png'), np.zeros((4, 4), np.uint8))


def stems(folder, split, **options) -> list[str]:
    dataset = DATASETS.build(
        dict(type='mmbirefnet.FolderDataset', data_root=str(folder), split=split, pipeline=[], **options)
    )
    items = [dataset.get_data_info(i) for i in range(len(dataset))]
    for item in items:
        assert item['seg_map_path'] == item['img_path'].replace('/im/', '/gt/')
    return [item['img_path'].rpartition('/')[2].removesuffix('.png') for item in items]


def test_one_folder_is_split_by_checksum(tmp_path):
    names = [f'photo_{i}' for i in range(23)]
    write(tmp_path / 'own', names)
    ranked = sorted(names, key=lambda name: zlib.crc32(name.encode()))
    assert stems(tmp_path / 'own', 'val') == sorted(ranked[:2])
    assert stems(tmp_path / 'own', 'train') == sorted(ranked[2:])
    assert stems(tmp_path / 'own', 'val', held_out=0.5) == sorted(ranked[:12])
    # Nearly all is all but one.
    assert stems(tmp_path / 'own', 'train', held_out=0.99) == ranked[-1:]


def test_moving_the_folder_does_not_change_the_split(tmp_path):
    names = [f'{i}' for i in range(30)]
    write(tmp_path / 'here', names)
    write(tmp_path / 'a/longer/path', names)
    assert stems(tmp_path / 'here', 'val') == stems(tmp_path / 'a/longer/path', 'val')


def test_train_and_val_folders(tmp_path):
    write(tmp_path / 'train', ['a', 'b', 'c'])
    write(tmp_path / 'val', ['c', 'd'])
    assert stems(tmp_path, 'train') == ['a', 'b', 'c']
    assert stems(tmp_path, 'val') == ['c', 'd']


@pytest.mark.parametrize(
    ('folders', 'error', 'message'),
    [
        ([], FileNotFoundError, 'found none of them'),
        (['train'], FileNotFoundError, 'found train/im$'),
        (['', 'train', 'val'], ValueError, 'found im, train/im, val/im'),
        (['', 'val'], ValueError, 'found im, val/im'),
    ],
)
def test_other_forms_are_errors(tmp_path, folders, error, message):
    for folder in folders:
        write(tmp_path / folder, ['a', 'b'])
    with pytest.raises(error, match=f'expected im/ with all images, or train/im/ and val/im/; {message}'):
        stems(tmp_path, 'train')


def test_one_image_is_too_few(tmp_path):
    write(tmp_path, ['a'])
    with pytest.raises(ValueError, match='only one image, which cannot be split into train and val'):
        stems(tmp_path, 'train')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(split='test'), "split='test', must be one of train, val"),
        (dict(split='val', held_out=1.0), 'held_out=1.0'),
    ],
)
def test_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        stems(tmp_path, **options)
