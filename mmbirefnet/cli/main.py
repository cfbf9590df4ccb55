"""Entry point of ``mmbirefnet``: ``mmbirefnet COMMAND …``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from mmbirefnet.environment import REQUIREMENTS, check_versions
from mmbirefnet.utils.console import escape_unprintable
from mmbirefnet.version import __version__

# Sub-command: its module and a one-line description. A module is imported when its command runs.
COMMANDS = {
    'cut': ('mmbirefnet.cli.cut', 'remove the background of images'),
    'compare': ('mmbirefnet.cli.compare', 'compare models and settings on one HTML page'),
    'video': ('mmbirefnet.cli.video', 'remove the background of a video'),
    'serve': ('mmbirefnet.cli.serve', 'run a web page and an HTTP API'),
    'models': ('mmbirefnet.cli.models', 'list the released models, and download them'),
    'check': ('mmbirefnet.cli.check', 'find problems in images and masks before training'),
    'finetune': ('mmbirefnet.cli.finetune', 'fine-tune a model on your own images and masks'),
    'convert': ('mmbirefnet.cli.convert', 'convert checkpoints from and to the format of the reference'),
}
USAGE_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command.

    Args:
        argv: Arguments of the command line; by default those of this process.

    Returns:
        Exit status: 0 on success; 1 if some images failed; 2 if the command could not run; 130 if it was interrupted.
    """
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported
    escape_unprintable()
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        'mmbirefnet',
        usage='mmbirefnet COMMAND …',
        description='Remove the background of images and videos with BiRefNet.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='commands:\n' + '\n'.join(f'  {name:10}{text}' for name, (_, text) in COMMANDS.items()),
    )
    parser.add_argument('--version', action='version', version=f'mmbirefnet {__version__}')
    parser.add_argument(
        'command', metavar='COMMAND', choices=COMMANDS, help='see below; COMMAND --help lists its options'
    )
    command = parser.parse_args(argv[:1]).command

    module, text = COMMANDS[command]
    try:
        part = importlib.import_module(module)
        subparser = argparse.ArgumentParser(f'mmbirefnet {command}', description=text[0].upper() + text[1:] + '.')
        part.add_arguments(subparser)
        return part.run(subparser.parse_args(argv[1:]))
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        print(f'error: {_with_fix(error)}', file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _with_fix(error: Exception) -> Exception:
    """Replace the error of a missing package by that of the version check, which has the pip command."""
    if isinstance(error, ModuleNotFoundError) and error.name in REQUIREMENTS:
        try:
            check_versions()
        except ImportError as found:
            return found
    return error


if __name__ == '__main__':
    sys.exit(main())
