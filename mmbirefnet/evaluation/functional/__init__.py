"""One measure, or a family that shares its work, per file; each takes a ``Pair``."""
