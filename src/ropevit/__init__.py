"""Rotary position embedding for images."""

__version__ = "0.1.0"
