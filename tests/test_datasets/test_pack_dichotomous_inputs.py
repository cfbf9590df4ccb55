import numpy as np
import torch

from mmbirefnet.datasets.transforms import PackDichotomousInputs

SOFT = np.array([[0, 1, 2, 3], [51, 102, 127, 128], [153, 204, 253, 254], [255, 5, 10, 15]], np.uint8)


def test_soft_values_become_fractions():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    results = {
        'img': image,
        'gt_seg_map': SOFT,
        'seg_fields': ['gt_seg_map'],
        'img_path': 'im/a.jpg',
        'seg_map_path': 'gt/a.png',
        'set_name': 'DIS-TR',
        'class_name': 'Ant',
        'class_label': 1,
        'ori_shape': (8, 8),
        'img_shape': (4, 4),
        'scale_factor': (0.5, 0.5),
        'flip': False,
        'flip_direction': None,
        'anything': 'else',
    }
    packed = PackDichotomousInputs()(results)
    assert torch.equal(packed['inputs'], torch.from_numpy(image).permute(2, 0, 1))
    assert packed['inputs'].dtype == torch.uint8
    sample = packed['data_samples']
    data = sample.gt_sem_seg.data
    assert data.dtype == torch.float32
    assert data.shape == (1, 4, 4)
    torch.testing.assert_close(data[0], torch.tensor(SOFT.tolist()) / 255, rtol=1e-7, atol=0)
    assert data[0, 1].tolist() == torch.tensor([0.2, 0.4, 127 / 255, 128 / 255]).tolist()
    expected = {key: value for key, value in results.items() if key not in ('img', 'gt_seg_map', 'seg_fields')}
    expected.pop('anything')
    assert sample.metainfo == expected


def test_float_masks_stay_as_they_are():
    mask = np.array([[0.0, 32768 / 65535], [1 / 65535, 1.0]], np.float32)[:, ::-1]
    sample = PackDichotomousInputs()({'img': np.zeros((2, 2, 3), np.uint8), 'gt_seg_map': mask})['data_samples']
    np.testing.assert_array_equal(sample.gt_sem_seg.data[0].numpy(), mask)


def test_without_a_mask_and_with_other_meta_keys():
    results = {'img': np.zeros((2, 2, 3), np.uint8), 'img_path': 'a.jpg', 'set_name': 'S'}
    sample = PackDichotomousInputs(meta_keys=('set_name',))(results)['data_samples']
    assert 'gt_sem_seg' not in sample
    assert sample.metainfo == {'set_name': 'S'}
