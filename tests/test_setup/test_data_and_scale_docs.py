"""Run the commands of the data and scale pages, and check the options they name."""

import re
import runpy
from pathlib import Path

import pytest
from doc_blocks import blocks, commands
from forks import findable
from mmengine.config import Config, DictAction

from mmbirefnet.datasets.preparation.check import PROBLEMS, check_sets

ROOT = Path(__file__).parents[2]
DATA, SCALE = (
    (ROOT / f'docs/en/{name}.md').read_text('utf-8') for name in ('user_guides/data', 'advanced_guides/scale')
)
CONFIGS = ROOT / 'configs/birefnet'


@pytest.mark.soak
def test_data_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    for code in blocks('docs/en/user_guides/data.md', 'commands'):
        for _, *words in commands(code):
            monkeypatch.setattr('sys.argv', words)
            status = 0
            try:
                runpy.run_path(str(ROOT / words[0]), run_name='__main__')
            except SystemExit as end:
                status = end.code
            assert not status, words
    assert check_sets('data/small', processes=1)['DIS-TR'].images == 12


def test_kinds_of_problems():
    table = DATA.split('| kind | what |')[1].split('\n\n')[0]
    assert set(re.findall(r'`([\w-]+)`', table)) == set(PROBLEMS)


@pytest.mark.parametrize('options', re.findall(r'`((?:[\w.]+=[^`]+))`', SCALE))
def test_scale_options_fit_the_configs(options):
    """All but those that bring something new change what is there."""
    cfg = Config.fromfile(CONFIGS / 'birefnet_swin-t_8xb4-500e_dis5k-1024x1024.py')
    if 'decode_head.loss_decode' in options:
        assert cfg.model.decode_head.loss_decode[1].type == 'mmbirefnet.IoULoss'
        assert cfg.model.decode_head.loss_decode[1].loss_weight * cfg.train_dataloader.batch_size == 2
    for option in options.split():
        key, _, value = option.partition('=')
        owner = cfg
        for part in key.split('.')[:-1]:
            if part in ('ema', 'cuda_graph', 'compile'):
                owner = {}
                break
            owner = owner[int(part) if part.isdigit() else part]
        new = ('accumulative_counts', 'type', 'momentum', 'compile', 'backend', 'with_cp')
        assert key.split('.')[-1] in new or key.split('.')[-1] in owner, option
        cfg.merge_from_dict({key: DictAction._parse_iterable(value)})


def test_scale_example(tmp_path):
    (example,) = blocks('docs/en/advanced_guides/scale.md', 'fsdp')
    path = tmp_path / 'fsdp.py'
    path.write_text(example.replace("'./", f"'{CONFIGS}/").replace("'../_base_", f"'{ROOT}/configs/_base_"))
    assert Config.fromfile(path).strategy.type == 'mmbirefnet.ResumableFSDPStrategy'


@pytest.mark.parametrize(
    'path', sorted(filter(findable, (ROOT / 'configs').glob('*/*_8xb*.py'))), ids=lambda path: path.stem
)
def test_configs_say_what_their_learning_rate_is_for(path):
    cfg = Config.fromfile(path)
    if 'base_batch_per_gpu' in cfg.get('auto_scale_lr', {}):
        assert cfg.auto_scale_lr.base_batch_per_gpu == cfg.train_dataloader.batch_size
        assert cfg.auto_scale_lr.base_batch_size == 8 * cfg.train_dataloader.batch_size
        assert not cfg.auto_scale_lr.enable
