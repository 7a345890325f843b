"""What a training step needs, estimated from shapes before anything is trained."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ropevit.models.memory import Build, count_weights, forward_macs, step_memory

#: Precisions by name; tf32 takes as much as float32, float16 as much as bfloat16.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class StepSpec:
    """A training whose step is estimated."""

    build: Build
    """Builds the model."""
    forward: Callable[[nn.Module, int], object]
    """Runs the model on so many images, as to measure."""
    loss: Callable[[nn.Module, int], Tensor]
    """Runs the model on so many images, as to train; what is made small."""
    size: tuple[int, int]
    """Height and width of the images in pixels."""
    least: int = 1
    """Fewest images of a step."""
    note: str = ""
    """What the estimate leaves out, or assumes."""


@dataclass(frozen=True)
class Estimate:
    """What was found."""

    parameters: int
    """Weights of the model."""
    multiply_adds: int
    """Of the forward pass of one image in eval mode."""
    counts: tuple[int, int]
    """Images of the smaller and the larger step."""
    peaks: dict[str, tuple[int, int]]
    """For each precision, the most bytes that a step of so many images holds."""

    def per_image(self, precision: str) -> int:
        """Give the bytes that one more image takes."""
        small, large = self.peaks[precision]
        return (large - small) // (self.counts[1] - self.counts[0])

    @property
    def moments(self) -> int:
        """Give the bytes of the optimizer's two moments, which come on top."""
        return 8 * self.parameters


def estimate_step(subject: StepSpec) -> Estimate:
    """Estimate what a step needs, without its memory.

    Args:
        subject: The training.
    """
    counts = subject.least, subject.least + 1

    def peak(images: int, precision: torch.dtype) -> int:
        return step_memory(subject.build, lambda model: subject.loss(model, images), precision)

    small, large = counts
    peaks = {name: (peak(small, kind), peak(large, kind)) for name, kind in PRECISIONS.items()}
    adds = forward_macs(subject.build, lambda model: subject.forward(model, 1))
    return Estimate(count_weights(subject.build), adds, counts, peaks)
