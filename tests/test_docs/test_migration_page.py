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
OTHERS |= {'num_workers', 'loss_cls_weight'}


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
