"""The documentation has every option of the commands."""

import argparse
import importlib
import re
from pathlib import Path

import pytest

from mmbirefnet.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = '\n'.join(path.read_text('utf-8') for path in (ROOT / 'README.md', *ROOT.glob('docs/en/**/*.md')))
DOCUMENTED = set(re.findall(r'(?<![\w-])--[a-z][\w-]*', PAGES))


@pytest.mark.parametrize('command', COMMANDS)
def test_every_option_is_documented(command):
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    missing = []
    for line in parser.format_help().splitlines():
        names = set(re.findall(r'(?<![\w-])--[a-z][\w-]*', line)) - {'--help'}
        # An option and its negation count as one.
        if re.match(r'  -', line) and names and not names & DOCUMENTED:
            missing.append(line.strip())
    assert not missing
