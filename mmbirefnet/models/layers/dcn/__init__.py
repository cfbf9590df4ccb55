"""Deformable convolution v2 and its backends."""
