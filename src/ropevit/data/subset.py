"""Some images of a split."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from ropevit.data.rng import make_generator


@dataclass(frozen=True)
class ImageSubset:
    """Some images of a source."""

    source: Any
    """An `ImageSource`, or images with another annotation."""
    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.classes

    @property
    def name(self) -> str:
        """Name of the set and split."""
        return self.source.name

    @property
    def blocks(self) -> tuple[int, ...]:
        """Always empty."""
        return ()

    def read(self, index: int) -> tuple[Image.Image, Any]:
        """Return an image as RGB, and its annotation."""
        return self.source.read(self.indices[index])

    def describe(self, index: int) -> str:
        """Return the name of the file, for messages."""
        return self.source.describe(self.indices[index])


def random_subset(count: int, most: int | None, *keys: str | int) -> torch.Tensor:
    """Return the indices of a random subset, in ascending order; all of them if there are no more than `most`.

    Args:
        count: Number of images.
        most: Largest number of images in the subset; None for all.
        keys: Keys of the random stream.
    """
    if most is None or count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=make_generator(*keys))[:most].sort().values
