"""Sphinx configuration of the documentation; ``make docs`` builds it."""

from mmbirefnet.version import __version__

project = 'mmbirefnet'
author = 'The mmbirefnet authors'
copyright = f'2025-2026, {author}'
release = __version__

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinxcontrib.mermaid',
]
myst_heading_anchors = 3
myst_fence_as_directive = ['mermaid']
# Links to files of the repository outside docs/en (configs, README) work on GitHub; tests/test_docs checks that the
# file exists.
suppress_warnings = ['myst.xref_missing']

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # the docstrings contain types and shapes
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'mmbirefnet {release}'
