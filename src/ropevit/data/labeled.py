"""A labeled set of images in memory, as loaders return it and studies use it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LabeledImages:
    """Images of equal size with a class each."""

    images: Tensor
    """uint8 (N, channels, S, S)."""
    labels: Tensor
    """int64 (N,), indices into `classes`."""
    classes: tuple[str, ...]
    """Names of the classes."""
    name: str
    """Name of the set and split, such as `fashion/train`."""
    source: str
    """Source and license of the images, in one line."""
    groups: tuple[str, ...] = ()
    """A coarser name for each class, used to label pixels; empty where the classes themselves are used."""
    notes: tuple[str, ...] = ()
    """Notes for readers of results, such as that a subset was used."""
    skipped: tuple[str, ...] = ()
    """Files that could not be read, each with the reason."""

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(
                f"got images of shape {tuple(self.images.shape)} and {self.images.dtype}; "
                "expected uint8 (N, channels, height, width)"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"got {len(self.images)} images and labels of shape {tuple(self.labels.shape)}; expected one each"
            )
        if self.groups and len(self.groups) != len(self.classes):
            raise ValueError(
                f"got {len(self.classes)} classes and {len(self.groups)} groups; expected one for each class"
            )

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, index: Tensor | slice, name: str | None = None) -> "LabeledImages":
        """Return the images with the given indices, under the same or another name."""
        return replace(self, images=self.images[index], labels=self.labels[index], name=name or self.name)

    def grouped(self) -> "LabeledImages":
        """Return the images labeled by group instead of class; unchanged if there are no groups."""
        if not self.groups:
            return self
        names = tuple(dict.fromkeys(self.groups))
        label = torch.tensor([names.index(group) for group in self.groups], device=self.labels.device)
        return replace(self, labels=label[self.labels], classes=names, groups=())

    def to(self, device: torch.device | str) -> "LabeledImages":
        """Move images and labels to a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))
