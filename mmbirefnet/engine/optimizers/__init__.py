"""Optimizer wrappers and learning-rate scaling."""
