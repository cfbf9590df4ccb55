"""The page for users of the reference implementation: its options exist, with the defaults that it states."""

import argparse
import re
from pathlib import Path

import pytest

from mmbirefnet.fileio.configs import ConfigOptions, check_options, read_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/en/advanced_guides/migration.md').read_text('utf-8')
CONFIG = ROOT / 'configs/birefnet/birefnet_swin-l_8xb4-500e_dis5k-1024x1024.py'
COLUMN = ''.join(line.split('|')[2] for line in PAGE.splitlines() if line.startswith('| `'))
OPTIONS = [span for span in re.findall(r'`([^`]+)`', COLUMN) if re.fullmatch(r'[\w.]+\.[\w.]+=\S+', span)]
# Where the page gives a value that is not the default.
OTHERS = {'frozen_stages', 'context', 'squeeze', 'multi_scale_input', 'residual', 'aux_classifier', 'precision', 'sets'}
OTHERS |= {'num_workers', 'loss_cls_weight', 'checkpoint'}


# The settings of the reference's `config.py`, of its head of July 2026.
SETTINGS = """
    sys_home_dir data_root_dir task testsets training_set size dynamic_size background_color_synthesis load_all compile
    precisionHigh ms_supervision out_ref dec_ipt dec_ipt_split cxt_num mul_scl_ipt dec_att squeeze_block dec_blk
    batch_size finetune_last_epochs lr num_workers bb lateral_channels_in_collection cxt lat_blk dec_channels_inter
    refine progressive_ref ender scale auxiliary_classification refine_iteration freeze_bb model preproc_methods
    optimizer lr_decay_epochs lr_decay_rate lambdas_pix_last lambdas_cls weights_root_dir weights verbose_eval
    only_S_MAE SDPA_enabled device batch_size_valid rand_seed save_last save_step
"""


@pytest.mark.parametrize('setting', SETTINGS.split())
def test_every_setting_of_the_reference_has_a_row(setting):
    first = [line.split('|')[1] for line in PAGE.splitlines() if line.startswith('| ')]
    assert re.search(rf'`{setting}[`=]', ''.join(first))


def value_of(cfg, key):
    for part in key.split('.'):
        cfg = cfg[part]
    return cfg


def test_there_are_options():
    assert len(OPTIONS) > 20


@pytest.mark.parametrize('option', OPTIONS)
def test_listed_options_exist_in_the_config(option):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=ConfigOptions)
    options = parser.parse_args(['--cfg-options', option]).cfg_options
    ((key, value),) = options.items()
    cfg = read_config(CONFIG)
    check_options(cfg, options)
    if key.rpartition('.')[2] not in OTHERS:
        assert value_of(cfg, key) == value


def test_files_exist():
    for path in re.findall(r'`((?:tools|configs)/[\w./-]+?)/?(?: [^`]*)?`', PAGE):
        assert (ROOT / path).exists(), path
