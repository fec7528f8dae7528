"""Trains a small language model: the origin of the bundled one."""
