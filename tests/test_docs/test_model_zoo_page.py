"""The model zoo page is what its generator writes."""

import runpy
from pathlib import Path

import pytest
from doc_blocks import ROOT

GENERATOR = runpy.run_path(str(ROOT / 'docs/make_model_zoo.py'))
PAGE = GENERATOR['PAGE'].read_text('utf-8')
FIX = 'Fix: run python docs/make_model_zoo.py --new'


def test_page_is_up_to_date_except_costs():
    costs = GENERATOR['read_costs']()

    def cost_of(path: Path) -> list[str]:
        return costs.get(GENERATOR['link'](f'{path.parent.name}/{path.name}'), ['?', '?'])

    assert GENERATOR['page'](cost_of=cost_of) == PAGE, FIX


@pytest.mark.soak
def test_whole_page():
    assert GENERATOR['page']() == PAGE, FIX
