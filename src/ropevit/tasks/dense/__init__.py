"""What detectors and segmenters share: backbone options, model files, initial weights, training and evaluation."""

__all__: list[str] = []
