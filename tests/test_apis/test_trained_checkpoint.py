"""The checkpoint that end-to-end tests run on does cut objects out."""

import numpy as np
from pico import iou

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.datasets.preparation.synthetic import make_sample


def test_trained_checkpoint_segments_held_out_objects(trained_checkpoint):
    inferencer = BiRefNetInferencer(*trained_checkpoint, device='cpu')
    assert inferencer.backend.input_size == (96, 96)
    samples = [make_sample(0, 'DIS-VD', index, (128, 160)) for index in range(22)]
    maps = inferencer([sample.image for sample in samples], batch_size=8)
    assert np.mean([iou(soft_map, sample.mask) for soft_map, sample in zip(maps, samples)]) > 0.7
