"""The forms of model names in docs/en/user_guides/models.md are accepted."""

import re
from pathlib import Path

import pytest

from mmbirefnet.zoo.download import is_model_name

PAGE = (Path(__file__).parents[2] / 'docs/en/user_guides/models.md').read_text('utf-8')


@pytest.mark.parametrize('name', re.findall(r'`(user/repo[^`]*|https://example[^`]*)`', PAGE))
def test_names_on_the_page_are_model_names(name):
    assert is_model_name(name)
