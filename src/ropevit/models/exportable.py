"""Interface between models and the export to files: the images that a program takes, and its named outputs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

#: Shape of an output; dynamic dimensions by name.
Shape = tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """The images that a program takes, (B, c, H, W)."""

    channels: int
    """Number of channels, c."""
    multiple: int = 1
    """Number of pixels that must divide height and width."""
    least: int = 1
    """Smallest dynamic height and width in a program of torch.export, in multiples; ONNX files have no such limit."""
    oblivious: bool = True
    """Trace without the assumption that no dimension is 1, such as the number of windows along a side."""
    example: tuple[int, int]
    """Height and width for tracing."""
    samples: tuple[tuple[int, int], ...]
    """Three sizes at which a file is compared with the model."""


class ExportModel(nn.Module):
    """A model of another task than classification: one function of images with named outputs, as a file holds it.

    Its forward pass takes normalized images (B, c, H, W) of one size, and returns a tuple of tensors.
    """

    task: str
    """Name of the task in the file's metadata."""
    outputs: Mapping[str, Shape]
    """Name -> shape of each output."""
    images: ImageSpec
    """Images that it takes."""
    facts: Mapping[str, Any]
    """Metadata of the file, such as class names and preprocessing; JSON can represent them."""
    decisions: Mapping[str, Shape] = MappingProxyType({})
    """Name -> shape of further outputs, if `with_decisions`: choices that a rounding error can reverse. A file is
    compared with a model that makes the same choices; they are not kept in it."""
    with_decisions: bool = False
    """Whether the forward pass returns the decisions after the outputs."""
    notes: tuple[str, ...] = ()
    """Lines for the user, such as what `--scaling auto` found."""

    def difference(self, images: Tensor, found: Sequence[Tensor]) -> tuple[float, float]:
        """Return the largest absolute and relative difference of an exported file from this model.

        Args:
            images: A batch.
            found: The outputs of the file for it, in their order, and its decisions, if it has them.
        """
        raise NotImplementedError


def difference(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """Return the largest absolute difference, and the same relative to the largest expected value; NaN if any is."""
    return relative((actual - expected).abs().max().item(), expected.abs().max().item())


def relative(absolute: float, largest: float) -> tuple[float, float]:
    """Return an absolute difference, and the same relative to the largest value."""
    return absolute, absolute / largest if largest else absolute


def worst(differences: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the absolute and relative difference whose relative one is largest; NaN is larger than any number."""
    return max(differences, key=lambda found: (found[1] != found[1], found[1]))


def image_spec(model: nn.Module) -> ImageSpec:
    """Return the images that a model takes; a classifier's samples are its own size, a smaller and a larger one."""
    if isinstance(model, ExportModel):
        return model.images
    config: Any = model.config
    rows, columns = (max(side // config.multiple, 2) for side in config.img_size)
    grids = (rows, columns), (max(rows // 2, 2), columns + 3), (rows + 2, max(columns - 3, 2))
    return ImageSpec(
        channels=config.in_channels,
        multiple=config.multiple,
        least=1 if config.windowed else 2,
        oblivious=config.windowed,
        example=config.example_size,
        samples=tuple((h * config.multiple, w * config.multiple) for h, w in grids),
    )
