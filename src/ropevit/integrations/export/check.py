"""Compares the outputs of an exported file with the model's, at several image or batch sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ropevit.models.exportable import ExportModel, difference, image_spec

#: Default tolerance on the largest difference, relative to the largest output: far above rounding errors.
TOLERANCE = 1e-4

Run = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference between the outputs of an exported file and of its model for the same images."""

    shape: tuple[int, ...]
    """Shape of the images, (B, c, H, W)."""
    absolute: float
    """Largest absolute difference of an output."""
    relative: float
    """`absolute`, divided by the model's largest absolute output."""


class MismatchError(RuntimeError):
    """The outputs of an exported file differ from those of its model."""

    def __init__(self, message: str, differences: Sequence[Difference]):
        super().__init__(message)
        self.differences = tuple(differences)


def _sample_shapes(model: nn.Module, size: tuple[int, int] | None) -> list[tuple[int, int, int, int]]:
    """Return shapes of three test batches: of the model's sample sizes, or with a fixed size of three batch sizes."""
    spec = image_spec(model)
    sizes = spec.samples if size is None else [size] * 3
    return [(batch, spec.channels, *side) for batch, side in zip((1, 2, 3), sizes, strict=True)]


@torch.no_grad()
def compare(run: Run, model: nn.Module, size: tuple[int, int] | None) -> tuple[Difference, ...]:
    """Run an exported file and its model on the same random images, of three image or batch sizes."""
    generator = torch.Generator().manual_seed(0)
    differences = []
    for shape in _sample_shapes(model, size):
        images = torch.randn(shape, generator=generator)
        found = run(images)
        if isinstance(model, ExportModel):
            absolute, relative = model.difference(images, found)
        else:
            absolute, relative = difference(found[0], model(images))
        differences.append(Difference(shape=shape, absolute=absolute, relative=relative))
    return tuple(differences)


@torch.no_grad()
def check_kept(kept: Run, whole: Run, model: nn.Module, size: tuple[int, int] | None, count: int) -> None:
    """Run a file whose further outputs were removed, and the file with all of them.

    Values are compared by `compare`, before; a rounding error may reverse a choice here.

    Raises:
        MismatchError: If the first outputs differ in number, shape or dtype.
    """
    images = torch.zeros(_sample_shapes(model, size)[0])
    found, expected = ([(tuple(x.shape), x.dtype) for x in run(images)] for run in (kept, whole))
    if found != expected[:count]:
        raise MismatchError(
            f"the outputs of the exported file are {found}, expected {expected[:count]}; nothing was written", ()
        )


def check(differences: Sequence[Difference], tolerance: float) -> None:
    """Raise MismatchError if any difference is above the tolerance.

    Raises:
        MismatchError: If a relative difference is above the tolerance, or NaN.
    """
    worst = max(differences, key=lambda found: (found.relative != found.relative, found.relative))
    if not worst.relative <= tolerance:
        shape = " x ".join(str(side) for side in worst.shape)
        raise MismatchError(
            f"the outputs of the exported file differ from the model's by {worst.relative:.2g} of the largest output "
            f"for images {shape}, above the tolerance of {tolerance:g}; nothing was written: "
            "if so large a difference is acceptable, raise the tolerance",
            differences,
        )
