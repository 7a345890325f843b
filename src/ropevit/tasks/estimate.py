"""Estimate parameters, MACs and memory of a training step on the meta device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ropevit.models.memory import Build, count_weights, forward_macs, step_memory

#: Precisions by name; tf32 needs as much memory as float32, and float16 as bfloat16.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """Model, forward pass and loss of the training step to estimate."""

    build: Build
    """Builds the model."""
    forward: Callable[[nn.Module, int], object]
    """Runs the model in eval mode on a number of images."""
    loss: Callable[[nn.Module, int], Tensor]
    """Returns the training loss of the model on a number of images."""
    size: tuple[int, int]
    """Height and width of the images in pixels."""
    patch_size: int
    """Side of a patch in pixels; of a Swin, in the first stage."""
    least: int = 1
    """Minimum number of images of a step."""
    note: str = ""
    """Assumptions of the estimate, and what it does not include."""


@dataclass(frozen=True)
class Estimate:
    """Estimated requirements of a training step."""

    parameters: int
    """Number of parameters."""
    trainable: int
    """Number of those that are not frozen."""
    macs: int
    """MACs of the forward pass of one image in eval mode."""
    counts: tuple[int, int]
    """Numbers of images in the smaller and the larger step."""
    peaks: dict[str, tuple[int, int]]
    """Precision -> peak memory of these two steps in bytes."""

    def per_image(self, precision: str) -> int:
        """Return the memory of one more image, in bytes."""
        small, large = self.peaks[precision]
        return (large - small) // (self.counts[1] - self.counts[0])

    @property
    def moments(self) -> int:
        """Memory of the optimizer's two moments in bytes, in addition to the peaks."""
        return 8 * self.trainable


def estimate_step(spec: StepSpec) -> Estimate:
    """Estimate parameters, MACs and peak memory of a training step, without allocating that memory.

    Args:
        spec: The training step.
    """
    counts = spec.least, spec.least + 1

    def peak(images: int, precision: torch.dtype) -> int:
        return step_memory(spec.build, lambda model: spec.loss(model, images), precision)

    small, large = counts
    peaks = {name: (peak(small, dtype), peak(large, dtype)) for name, dtype in PRECISIONS.items()}
    macs = forward_macs(spec.build, lambda model: spec.forward(model, 1))
    return Estimate(count_weights(spec.build), count_weights(spec.build, trainable=True), macs, counts, peaks)
