"""Code blocks of the documentation, by the marker above each.

A marker is an HTML comment, which no page shows, directly above a block:

    <!-- test: NAME -->          the test that calls ``blocks(PAGE, NAME)`` runs the block
    <!-- no test: REASON -->     nothing runs it; its options are still parsed
"""

import shlex
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md')),
    *sorted((ROOT / 'docs/en').rglob('*.md')),
    *sorted((ROOT / 'configs').rglob('README.md')),
]
SHELL, PYTHON = {'bash', 'console', 'sh', 'shell'}, {'python', 'py', 'pycon'}


@dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
        page: Path from the root of the repository.
        line: Line of the opening fence, from 1.
        language: Word behind the fence.
        code: The text, without the indentation of a list.
        name: Name in the marker, or ``None``.
        reason: Why no test runs it, or ``None``.
    """

    page: str
    line: int
    language: str
    code: str
    name: str | None = None
    reason: str | None = None


def all_blocks(path: Path) -> list[Block]:
    """All blocks of code of a page in a shell's language or Python."""
    found, comment = [], ''
    for token in MarkdownIt().parse(path.read_text('utf-8')):
        language = token.info.split()[0] if token.info else ''
        if token.type == 'fence' and language in SHELL | PYTHON:
            kind, _, text = comment.removeprefix('<!--').removesuffix('-->').strip().partition(': ')
            marker = {'test': 'name', 'no test': 'reason'}.get(kind)
            more = {marker: text} if marker and text else {}
            found.append(Block(str(path.relative_to(ROOT)), token.map[0] + 1, language, token.content, **more))
        comment = token.content.strip() if token.type == 'html_block' else ''
    return found


def blocks(page: str, name: str) -> list[str]:
    """The code of the blocks that are marked ``<!-- test: NAME -->`` on a page.

    Args:
        page: Path from the root of the repository.
        name: Name in the marker.

    Raises:
        ValueError: If the page has no such block.
    """
    found = [block.code for block in all_blocks(ROOT / page) if block.name == name]
    if not found:
        raise ValueError(f'{page}: no block of code is marked <!-- test: {name} -->')
    return found


def commands(code: str) -> list[list[str]]:
    """Words of each command of a shell block, without comments and ``export`` lines."""
    lines = code.replace('\\\n', ' ').splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line and line[0] != 'export']


def table(page: str, first: str) -> list[list[str]]:
    """Rows, as lists of cells, of the table of a page whose first column has this heading."""
    lines = (ROOT / page).read_text('utf-8').split(f'\n| {first} |', 1)[1].split('\n\n', 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]
