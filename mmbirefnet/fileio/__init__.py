"""Checkpoints, configs and other files: safe reading and atomic writing."""
