"""The table of docs/en/user_guides/models.md is the catalog."""

import re
from pathlib import Path

import pytest

from mmbirefnet.zoo import get_info, list_models
from mmbirefnet.zoo.download import is_model_name

PAGE = (Path(__file__).parents[2] / 'docs/en/user_guides/models.md').read_text('utf-8')
ROWS = [
    [cell.strip() for cell in line.strip('|').split('|')]
    for line in PAGE.split('|---|---|---|---|---|---|\n')[1].splitlines()
    if line[:1] == '|'
]


def test_all_models():
    assert [row[0].strip('`') for row in ROWS] == list_models()


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row[0])
def test_row(row):
    info = get_info(row[0].strip('`'))
    assert row[1:] == [info.task, info.size, info.backbone, info.licence.weights, info.licence.data]


@pytest.mark.parametrize('name', re.findall(r'`(user/repo[^`]*|https://example[^`]*)`', PAGE))
def test_forms_of_names(name):
    assert is_model_name(name)
