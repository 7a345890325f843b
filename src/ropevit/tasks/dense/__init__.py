"""Shared by detectors and segmenters: backbone options, model files, initial weights, training and evaluation."""

__all__: list[str] = []
