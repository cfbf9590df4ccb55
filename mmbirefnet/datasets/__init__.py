"""Data sets by folder (``im/``, ``gt/``) and their transforms."""
