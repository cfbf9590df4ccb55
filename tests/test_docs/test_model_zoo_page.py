"""The model zoo page is what its generator writes."""

import runpy
from pathlib import Path

import pytest
from doc_blocks import ROOT

GENERATOR = runpy.run_path(str(ROOT / 'docs/make_model_zoo.py'))
PAGE = GENERATOR['PAGE'].read_text('utf-8')
FIX = 'Fix: run python docs/make_model_zoo.py --new'


def page(is_counted) -> str:
    """The page, with new costs of some configs and those that the page has of the others."""
    costs = GENERATOR['read_costs']()

    def cost_of(path: Path) -> list[str]:
        if is_counted(path):
            return GENERATOR['cost_of'](path)
        return costs.get(GENERATOR['link'](f'{path.parent.name}/{path.name}'), ['?', '?'])

    return GENERATOR['page'](cost_of=cost_of)


def test_page_is_up_to_date_except_costs():
    assert page(lambda path: False) == PAGE, FIX


@pytest.mark.soak
def test_costs_of_a_config_of_each_folder():
    assert page(lambda path: path == min(path.parent.glob('*.py'))) == PAGE, FIX
