"""The page's example with Ray Data, on a local Ray."""

import cv2
import numpy as np
import pytest
from doc_blocks import ROOT, blocks

from mmbirefnet.apis import BiRefNetInferencer
from mmbirefnet.datasets.preparation.synthetic import make_sample

ray = pytest.importorskip('ray', reason='ray is not installed: pip install "ray[data]"')


@pytest.mark.soak
def test_masks_are_those_of_the_inferencer(trained_checkpoint, tmp_path, monkeypatch):
    import pyarrow.parquet

    (tmp_path / 'photos').mkdir()
    for index in range(5):
        sample = make_sample(0, 'DIS-VD', index, (96, 96))
        cv2.imwrite(str(tmp_path / f'photos/{index}.png'), sample.image)
    (tmp_path / 'photos/damaged.png').write_bytes(b'no')
    (example,) = blocks('docs/en/advanced_guides/scale.md', 'ray')
    (tmp_path / 'cut_with_ray.py').write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    from cut_with_ray import cut

    environment = dict(PYTHONPATH=f'{ROOT}:{tmp_path}', OMP_NUM_THREADS='1')
    ray.init(num_cpus=2, include_dashboard=False, runtime_env=dict(env_vars=environment))
    try:
        model = [str(path) for path in trained_checkpoint]
        cut(str(tmp_path / 'photos'), str(tmp_path / 'masks'), model, actors=2, num_cpus=0.5)
    finally:
        ray.shutdown()
    rows = sorted(pyarrow.parquet.read_table(tmp_path / 'masks').to_pylist(), key=lambda row: row['path'])
    assert [row['path'].rpartition('/')[2] for row in rows] == [*(f'{index}.png' for index in range(5)), 'damaged.png']
    inferencer = BiRefNetInferencer(*model)
    for row in rows[:5]:
        mask = cv2.imdecode(np.frombuffer(row['mask'], np.uint8), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(mask, inferencer(row['path'], dtype='uint8'))
        assert row['error'] == ''
    assert rows[5]['mask'] == b''
    assert 'not an image that can be read' in rows[5]['error']
