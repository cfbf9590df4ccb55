"""Utilities: checkpoint loading and conversion, the environment report, the command lines' common parts."""
