"""Checking, laying out, packing and generating data sets."""
