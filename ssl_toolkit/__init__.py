"""Pretrain image encoders without labels, score them honestly, search images with them."""

__version__ = "0.1.0"
