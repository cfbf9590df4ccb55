"""tools/test.py in this process: what its options do to the run."""

import cv2
import numpy as np
import pytest
import torch

TTA = """
tta_model = dict(type='SegTTAModel')
tta_pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[
    [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)],
    [dict(type='LoadAnnotations')], [dict(type='PackSegInputs')]])]
"""


@pytest.fixture
def trained(tool, tiny_config, tiny_data, tmp_path):
    """Tests a trained model: call with the options, and with lines to add to the config."""
    data_root = ['--cfg-options', f'data_root={tiny_data}']
    # mmengine keeps one visualizer for each name of a run and second
    tool('train', tiny_config, '--work-dir', tmp_path / 'run', *data_root, 'experiment_name=training')

    def run(*options, config=''):
        tiny_config.write_text(tiny_config.read_text() + config)
        checkpoint = tmp_path / 'run/epoch_1.pth'
        return tool('test', tiny_config, checkpoint, '--work-dir', tmp_path / 'test', *options, *data_root)

    return run


def test_out_writes_maps(trained, tmp_path):
    runner = trained('--out', tmp_path / 'maps')
    assert runner.test_loop.evaluator.metrics[0].output_dir == str(tmp_path / 'maps')
    for index in range(4):
        assert set(np.unique(cv2.imread(str(tmp_path / f'maps/{index}.png'), 0))) <= {0, 1}


@pytest.mark.soak
def test_out_goes_to_the_first_metric_of_a_list_that_takes_it(trained, tmp_path):
    metrics = "test_evaluator = [dict(type='DumpResults', out_file_path='all.pkl'), dict(type='IoUMetric')]\n"
    trained('--out', tmp_path / 'maps', config=metrics)
    assert {path.name for path in (tmp_path / 'maps').iterdir()} == {'0.png', '1.png', '2.png', '3.png'}
    assert (tmp_path / 'all.pkl').is_file()


@pytest.mark.soak
def test_show_dir_draws_every_prediction(trained, tmp_path):
    trained('--show-dir', tmp_path / 'figures', config="default_hooks['visualization']['interval'] = 1\n")
    assert len(list((tmp_path / 'figures').rglob('*.png'))) == 4


@pytest.mark.soak
def test_tta_predicts_on_the_augmented_images(trained):
    runner = trained('--tta', config=TTA)
    assert type(runner.model).__name__ == 'SegTTAModel'
    assert type(runner.test_dataloader.dataset.pipeline.transforms[1]).__name__ == 'TestTimeAug'


@pytest.mark.parametrize(('options', 'fuses'), [([], True), (['--no-fuse'], False)])
@pytest.mark.soak(keep=1)
def test_fuses_by_default(trained, options, fuses):
    assert any(type(hook).__name__ == 'FuseHook' for hook in trained(*options).hooks) == fuses


@pytest.fixture
def untested(tool, tiny_config, tmp_path):
    """As ``trained``, for runs that end before the checkpoint is read."""
    (tmp_path / 'epoch_1.pth').touch()

    def run(*options, config=''):
        tiny_config.write_text(tiny_config.read_text() + config)
        return tool('test', tiny_config, tmp_path / 'epoch_1.pth', '--work-dir', tmp_path / 'test', *options)

    return run


@pytest.mark.parametrize(
    ('options', 'config', 'message'),
    [
        (['--tta'], '', '--tta needs tta_model, tta_pipeline'),
        (['--show-dir', 'figures'], 'default_hooks = dict()\n', 'need default_hooks.visualization'),
        (['--out', 'maps'], "test_evaluator = [dict(type='mmengine.DumpResults')]\n", '--out needs a metric'),
    ],
)
def test_options_that_the_config_does_not_support(untested, options, config, message):
    with pytest.raises(SystemExit, match=message):
        untested(*options, config=config)


def test_checkpoint_of_another_model(tool, tiny_config, tiny_data, tmp_path):
    torch.save({'state_dict': {'conv.weight': torch.ones(1)}}, tmp_path / 'other.pth')
    options = ['--work-dir', tmp_path / 'test', '--cfg-options', f'data_root={tiny_data}']
    with pytest.raises(ValueError, match=r'other\.pth: the parameters do not fit the model: missing'):
        tool('test', tiny_config, tmp_path / 'other.pth', *options)
