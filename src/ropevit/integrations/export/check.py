"""An exported file beside the model that made it, at several sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.models import Model

#: Largest difference let through, over the largest output: far above rounding, far below a fault.
TOLERANCE = 1e-4

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far the outputs of two programs lie apart on the same images."""

    shape: tuple[int, ...]
    """Of the images, (B, c, H, W)."""
    absolute: float
    """Largest difference of two outputs."""
    relative: float
    """The same over the largest output."""


class MismatchError(RuntimeError):
    """An exported file does not compute what its model computes."""

    def __init__(self, message: str, differences: Sequence[Difference]):
        super().__init__(message)
        self.differences = tuple(differences)


def _sample_shapes(model: Model, size: tuple[int, int] | None) -> list[tuple[int, int, int, int]]:
    """Choose three batches: at the model's own size, smaller and wider, larger and narrower; or of one fixed size."""
    config = model.config
    sizes = [size or config.img_size] * 3
    if size is None:
        rows, columns = (max(side // config.multiple, 2) for side in config.img_size)
        grids = (rows, columns), (max(rows // 2, 2), columns + 3), (rows + 2, max(columns - 3, 2))
        sizes = [(h * config.multiple, w * config.multiple) for h, w in grids]
    return [(batch, config.in_channels, *side) for batch, side in zip((1, 2, 3), sizes, strict=True)]


@torch.no_grad()
def compare(run: Run, model: Model, size: tuple[int, int] | None) -> tuple[Difference, ...]:
    """Run an exported file and its model on the same random images, of three sizes or batch sizes."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for shape in _sample_shapes(model, size):
        images = torch.randn(shape, generator=generator)
        found.append(difference(run(images), model(images)))
    return tuple(
        Difference(shape=shape, absolute=absolute, relative=relative)
        for shape, (absolute, relative) in zip(_sample_shapes(model, size), found, strict=True)
    )


def difference(ours: Float[Tensor, "*B K"], theirs: Float[Tensor, "*B K"]) -> tuple[float, float]:
    """Give the largest difference, and the same over the largest output; NaN if anything is."""
    absolute = (ours - theirs).abs().max().item()
    largest = theirs.abs().max().item()
    return absolute, absolute / largest if largest else absolute


def check(differences: Sequence[Difference], tolerance: float) -> None:
    """Refuse a file that does not compute what its model computes.

    Raises:
        MismatchError: If a relative difference is above the tolerance, or not a number.
    """
    worst = max(differences, key=lambda found: (found.relative != found.relative, found.relative))
    if not worst.relative <= tolerance:
        shape = " x ".join(str(side) for side in worst.shape)
        raise MismatchError(
            f"the exported file is {worst.relative:.2g} of the largest output away from the model for images "
            f"{shape}, above the tolerance of {tolerance:g}; nothing was written",
            differences,
        )
