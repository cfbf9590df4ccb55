"""Photograph to 8-bit map, through transforms, prediction and PNG writing, against the reference's maps.

The photographs are not part of this project: MMBIREFNET_PHOTOGRAPHS names the folder of the nine-image sample set they
belong to, which continuous integration has beside the checkout.
"""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden import GOLDEN, model_config, reference_state_dict
from mmengine.dataset import Compose, pseudo_collate

from mmbirefnet.evaluation import DichotomousMetric
from mmbirefnet.registry import DATASETS, MODELS, TRANSFORMS
from mmbirefnet.utils import convert_birefnet_state_dict

PHOTOGRAPHS = Path(
    os.environ.get('MMBIREFNET_PHOTOGRAPHS', Path(__file__).parents[3] / 'shared' / 'data' / 'mini_dis5k')
)
PIPELINE = [
    dict(type='mmbirefnet.LoadImage'),
    dict(type='mmbirefnet.Resize', scale=(512, 512)),
    dict(type='mmbirefnet.LoadMask'),
    dict(type='mmbirefnet.PackDichotomousInputs'),
]


@pytest.fixture(scope='module')
def model():
    model = MODELS.build(model_config())
    model.load_state_dict(convert_birefnet_state_dict(reference_state_dict()), strict=True)
    return model.eval()


def write_map(model, item, folder) -> np.ndarray:
    """Predict one item of a data set and read back what the metric writes."""
    with torch.no_grad():
        predictions = model.test_step(pseudo_collate([item]))
    metric = DichotomousMetric(measures=['MAE'], output_dir=str(folder))
    metric.process(None, predictions)
    metric.evaluate(1)
    (path,) = Path(folder).rglob('*.png')
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


@pytest.mark.soak
@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason='no photographs: set MMBIREFNET_PHOTOGRAPHS')
@pytest.mark.parametrize('name', ['girl-3', 'bike'])
def test_photograph_to_map(model, name, tmp_path):
    dataset = DATASETS.build(
        dict(
            type='mmbirefnet.DIS5KDataset',
            data_root=str(PHOTOGRAPHS),
            sets='DIS-VD',
            pipeline=PIPELINE,
            test_mode=True,
        )
    )
    (index,) = (i for i in range(len(dataset)) if dataset.get_data_info(i)['img_path'].endswith(f'#{name}.jpg'))
    ours = write_map(model, dataset[index], tmp_path)
    expected = cv2.imread(str(GOLDEN / 'pipeline' / f'{name}_512.png'), cv2.IMREAD_UNCHANGED)
    assert ours.shape == expected.shape
    assert np.abs(ours.astype(int) - expected).max() <= 1


def test_drawing_to_map(model, tmp_path):
    """The same way for an image that is part of the test, against its steps written out."""
    (tmp_path / 'im').mkdir()
    (tmp_path / 'gt').mkdir()
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (90, 130, 3), dtype=np.uint8), (0, 0), 3)
    cv2.imwrite(str(tmp_path / 'im' / 'a.png'), image)
    cv2.imwrite(str(tmp_path / 'gt' / 'a.png'), image[..., 0])
    pipeline = Compose(
        [TRANSFORMS.build({**step, 'scale': (64, 96)} if 'scale' in step else step) for step in PIPELINE]
    )
    item = pipeline(
        dict(
            img_path=str(tmp_path / 'im' / 'a.png'),
            seg_map_path=str(tmp_path / 'gt' / 'a.png'),
            seg_fields=[],
            reduce_zero_label=False,
        )
    )
    ours = write_map(model, item, tmp_path / 'maps')

    x = cv2.resize(image, (64, 96), interpolation=cv2.INTER_LINEAR)[..., ::-1] / 255.0
    x = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        logits = model(torch.from_numpy(x).permute(2, 0, 1)[None].float(), mode='tensor')
    probability = F.interpolate(logits.sigmoid(), (90, 130), mode='bilinear', align_corners=True)
    expected = (probability[0, 0].numpy() * 255).astype(np.uint8)
    assert np.abs(ours.astype(int) - expected).max() <= 1
    assert np.ptp(expected) > 10
