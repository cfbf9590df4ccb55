"""Print text with characters that the encoding of the terminal lacks."""

import contextlib
import sys


def escape_unprintable() -> None:
    """Escape characters on the standard output that its encoding lacks, such as names that are not UTF-8."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            with contextlib.suppress(OSError):  # the stream may belong to a replaced descriptor
                stream.reconfigure(errors='backslashreplace')


def printable(name: str) -> str:
    """Escape bytes of a name that are not UTF-8, for logs and images."""
    return name.encode('utf-8', 'backslashreplace').decode('utf-8')
