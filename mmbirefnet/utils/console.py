"""Print characters that the terminal's encoding lacks."""

import contextlib
import sys


def escape_unprintable() -> None:
    """Let standard output escape characters that its encoding lacks, such as those of names that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            with contextlib.suppress(OSError):  # of a descriptor that was exchanged for another
                stream.reconfigure(errors='backslashreplace')


def printable(name: str) -> str:
    """A name with escapes for bytes that are not UTF-8, for logs and images."""
    return name.encode('utf-8', 'backslashreplace').decode('utf-8')
