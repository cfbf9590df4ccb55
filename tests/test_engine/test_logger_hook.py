"""The file with the scores of a test in several processes."""

import json
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from processes import ROOT

from mmbirefnet.registry import HOOKS

CONFIG = ROOT / 'configs/_base_/default_runtime.py'


@pytest.mark.parametrize('rank', [0, 1])
def test_rank_0_alone_writes_the_scores(monkeypatch, tmp_path, rank):
    scores, logged = dict(MAE=0.25, time=1.5), []
    runner = SimpleNamespace(
        timestamp='now',
        work_dir=str(tmp_path),
        log_dir=str(tmp_path),
        logger=SimpleNamespace(info=logged.append),
        log_processor=SimpleNamespace(get_log_after_epoch=lambda *_, **__: (scores, 'MAE: 0.25')),
        test_dataloader=[],
    )
    hook = HOOKS.build(Config.fromfile(CONFIG).default_hooks.logger)
    hook.before_run(runner)
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda *_: rank)
    hook.after_test_epoch(runner)
    assert [json.loads(path.read_text()) for path in tmp_path.iterdir()] == ([] if rank else [scores])
    assert logged == ([] if rank else ['MAE: 0.25'])
