"""Entry point of ``mmbirefnet``: ``mmbirefnet COMMAND …``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from mmbirefnet.utils.console import escape_unprintable
from mmbirefnet.version import __version__

# Sub-command: its module, and what it does in a line. Modules are imported when they are asked for.
COMMANDS = {
    'cut': ('mmbirefnet.cli.cut', 'cut objects out of images'),
    'compare': ('mmbirefnet.cli.compare', 'compare models and settings on one page'),
    'video': ('mmbirefnet.cli.video', 'cut objects out of a video'),
    'serve': ('mmbirefnet.cli.serve', 'serve a page in the browser and an HTTP API'),
    'models': ('mmbirefnet.cli.models', 'list the released models, and download them'),
    'check': ('mmbirefnet.cli.check', 'find faults of images and masks that ruin a training'),
    'finetune': ('mmbirefnet.cli.finetune', 'fine-tune a model on your own images and masks'),
    'convert': ('mmbirefnet.cli.convert', 'convert a released checkpoint'),
}
USAGE_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command.

    Args:
        argv: Words of the command line, by default this process's.

    Returns:
        The exit status: 0, 1 if some of the work failed, 2 if it could not begin, 130 if it was interrupted.
    """
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # see docs/en/notes/performance.md; read when torch is imported
    escape_unprintable()
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        'mmbirefnet',
        usage='mmbirefnet COMMAND …',
        description='Cut objects out of images with BiRefNet.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='commands:\n' + '\n'.join(f'  {name:10}{text}' for name, (_, text) in COMMANDS.items()),
    )
    parser.add_argument('--version', action='version', version=f'mmbirefnet {__version__}')
    parser.add_argument('command', metavar='COMMAND', choices=COMMANDS, help='one of those below; COMMAND --help')
    command = parser.parse_args(argv[:1]).command

    module, text = COMMANDS[command]
    try:
        part = importlib.import_module(module)
        subparser = argparse.ArgumentParser(f'mmbirefnet {command}', description=text[0].upper() + text[1:] + '.')
        part.add_arguments(subparser)
        return part.run(subparser.parse_args(argv[1:]))
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == '__main__':
    sys.exit(main())
