"""Some images of a split."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

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

    Raises:
        ValueError: If `most` is below 1.
    """
    _check_most(most)
    if most is None or count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=make_generator(*keys))[:most].sort().values


def stratified_subset(labels: Int[Tensor, "n"], most: int | None, *keys: str | int) -> Int[Tensor, "m"]:
    """Return the indices of a random subset with the class proportions of all images, in ascending order.

    The first image of every class comes before the second of any, so that no class is lost unless `most` is below the
    number of classes.

    Args:
        labels: Class of each image.
        most: Largest number of images in the subset; None for all.
        keys: Keys of the random stream.

    Raises:
        ValueError: If `most` is below 1.
    """
    _check_most(most)
    if most is None or len(labels) <= most:
        return torch.arange(len(labels))
    order = torch.randperm(len(labels), generator=make_generator(*keys))
    shuffled = labels[order].long()
    counts, by_class = torch.bincount(shuffled), shuffled.argsort(stable=True)
    ranks = torch.empty_like(by_class)  # of each image within its class, from 0
    ranks[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[shuffled[by_class]]
    quantiles = ((ranks + 0.5) / counts[shuffled]).where(ranks > 0, -1)
    return order[quantiles.argsort(stable=True)[:most]].sort().values


def _check_most(most: int | None) -> None:
    """Raise ValueError for a limit that leaves no image."""
    if most is not None and most < 1:
        raise ValueError(f"got a subset of at most {most} images; expected 1 or more")
