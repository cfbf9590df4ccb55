"""Relative links of the documentation and of the READMEs lead to files and headings, and every page is on the site."""

import re

import pytest
from doc_blocks import PAGES as ALL_PAGES
from doc_blocks import ROOT

SITE = ROOT / 'docs/en'
PAGES = sorted(SITE.rglob('*.md'))


@pytest.mark.parametrize('page', ALL_PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links(page):
    text = page.read_text('utf-8')
    for target, anchor in re.findall(r'\]\((?!https?:|mailto:)([^)\s#]*)#?([^)\s]*)\)', text):
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r'^#+ (.+)$', path.read_text('utf-8'), re.M)
            slugs = [re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings]
            assert anchor in slugs, (target, anchor)


def test_every_page_is_in_the_contents():
    contents = (SITE / 'index.md').read_text('utf-8')
    for page in PAGES:
        name = str(page.relative_to(SITE).with_suffix(''))
        assert name == 'index' or name.startswith('notes/') or f'\n{name}\n' in contents, name


def test_pages_that_code_names_exist():
    folders = [ROOT / name for name in ('mmbirefnet', 'tools', 'configs', 'demo', 'tests')]
    files = [file for folder in folders for file in folder.rglob('*.py') if '.mim' not in file.parts]
    named = {(file.name, page) for file in files for page in re.findall(r'\bdocs/[\w/-]+\.md', file.read_text('utf-8'))}
    assert named
    assert [(name, page) for name, page in sorted(named) if not (ROOT / page).is_file()] == []
