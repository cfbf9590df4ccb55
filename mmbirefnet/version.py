"""Version of mmbirefnet."""

import re

__version__ = '0.2.0'
version_info = tuple(map(int, re.match(r'\d+(\.\d+)*', __version__)[0].split('.')))
"""Numbers of the release: ``(1, 0)`` for ``'1.0rc1'``."""
