"""Classify images: one, or many in batches."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from ropevit.data.imagenet import MEAN, STD
from ropevit.data.images import keep_aspect_size, read_image, resize_to, to_tensor
from ropevit.data.loading import batches
from ropevit.models.sizes import check_size

#: What a model returns for an image.
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class InputTransform:
    """Preprocessing of images for a model."""

    size: tuple[int, ...]
    """Shorter side, or height and width, in pixels."""
    multiple: int
    """Number of pixels of which both sides must be multiples: the patch size of a ViT, 1 for a Swin."""
    keep_aspect: bool = False
    """Keep the aspect ratio of the image instead of taking a center crop."""
    resize: int | None = None
    """Shorter side in pixels to which the image of that size is resized again, such as that of the training; None
    leaves it."""
    crop: float = 1.0
    """Crop ratio: the part of the largest centered crop that is taken, unless the whole image is."""
    squash: bool = False
    """Resize the whole image to the size, without keeping its aspect ratio."""
    mean: tuple[float, ...] = MEAN
    """Mean of each channel, for pixels from 0 to 1; a single number means gray images."""
    std: tuple[float, ...] = STD
    """Standard deviation of each channel."""

    def __post_init__(self):
        if len(self.size) not in (1, 2):
            raise ValueError(f"got size {self.size}; expected one number (the shorter side) or two (height, width)")
        if self.keep_aspect and len(self.size) == 2:
            raise ValueError(
                f"got size {self.size} and keep_aspect; give the shorter side alone to keep the image's shape"
            )
        if min(self.size) < 1:
            raise ValueError(f"got size {self.size}; expected pixels, above 0")
        check_size(self.size[0], self.size[-1], self.multiple)
        if self.resize is not None:
            check_size(self.resize, self.resize, self.multiple)

    def shape(self, image: Image.Image) -> tuple[int, int]:
        """Return the height and width to which an image is resized."""
        if self.keep_aspect:
            return keep_aspect_size(image, self.size[0], self.multiple)
        return self.size[0], self.size[-1]

    def prepare(self, image: Image.Image) -> Float[Tensor, "c H W"]:
        """Convert an image to the model's input."""
        if self.squash and not self.keep_aspect:
            image = image.resize((self.size[-1], self.size[0]), Image.Resampling.BICUBIC)
        else:
            image = resize_to(image, *self.shape(image), crop=1.0 if self.keep_aspect else self.crop)
        if self.resize is not None:
            side = self.resize
            image = resize_to(
                image, *(keep_aspect_size(image, side, self.multiple) if self.keep_aspect else (side, side))
            )
        return to_tensor(image, self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class RankedClass:
    """A class with its probability."""

    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of an image."""

    height: int
    """Height of the model's input in pixels."""
    width: int
    """Width of the model's input in pixels."""
    top_classes: tuple[RankedClass, ...]
    """Classes, the most probable first."""


class Unreadable(str):
    """The reason why an image could not be read, with the name of its file."""

    __slots__ = ()


def classify(
    model: nn.Module, image: Image.Image, transform: InputTransform, classes: Sequence[str], top: int = 5
) -> Prediction:
    """Classify an image.

    Args:
        model: A classifier; it is set to eval mode.
        image: An RGB image, as `read_image` returns it.
        transform: Preprocessing.
        classes: Names of the classes, in the order of the logits.
        top: Number of classes to return, at most all.

    Raises:
        ValueError: If the names do not match the logits.
    """
    return top_classes(model, transform.prepare(image).unsqueeze(0), classes, top)[0]


def classify_files(
    model: nn.Module,
    files: Sequence[Path],
    transform: InputTransform,
    classes: Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 32,
    workers: int = 0,
) -> Iterator[Prediction | Unreadable]:
    """Classify image files in batches; images of different shapes in a batch are grouped by shape.

    Args:
        model: A classifier; it is set to eval mode.
        files: Image files.
        transform: Preprocessing.
        classes: Names of the classes, in the order of the logits.
        top: Number of classes to return, at most all.
        batch_size: Images per batch.
        workers: Number of DataLoader workers; 0 reads in this process.

    Returns:
        For each file, in order, its prediction or the reason why it could not be read.

    Raises:
        ValueError: If the names do not match the logits, or a number is out of range.
    """
    if batch_size < 1:
        raise ValueError(f"got batch_size={batch_size}; expected at least 1")
    keys = (range(len(files))[start : start + batch_size] for start in range(0, len(files), batch_size))
    for images in batches(FileReader(tuple(files), transform), keys, workers):
        yield from by_shape(images, lambda stacked: top_classes(model, stacked, classes, top))


@dataclass(frozen=True)
class FileReader:
    """Data set that reads whole batches of image files, by DataLoader's method `__getitems__`."""

    files: tuple[Path, ...]
    transform: InputTransform

    def __getitems__(self, indices: Iterable[int]) -> list[Tensor | Unreadable]:
        """Read files; for one that cannot be read, return the reason."""
        return [self.read(self.files[index]) for index in indices]

    def read(self, path: Path) -> Tensor | Unreadable:
        """Read a file as the model's input (c, H, W)."""
        try:
            return self.transform.prepare(read_image(path))
        except ValueError as error:
            return Unreadable(error)


def by_shape(
    images: Sequence[Tensor | Unreadable], run: Callable[[Float[Tensor, "b c H W"]], Sequence[Result]]
) -> list[Result | Unreadable]:
    """Run a model on the readable images of a batch, all images of one shape together.

    Args:
        images: Images, or why one could not be read.
        run: Returns a result for each of a batch of images.
    """
    shapes: dict[torch.Size, list[int]] = {}
    for index, image in enumerate(images):
        if isinstance(image, Tensor):
            shapes.setdefault(image.shape, []).append(index)
    found: list[Result | Unreadable] = list(images)  # pyright: ignore[reportAssignmentType] (all images are replaced)
    for indices in shapes.values():
        stacked = torch.stack([image for index in indices if isinstance(image := images[index], Tensor)])
        for index, result in zip(indices, run(stacked), strict=True):
            found[index] = result
    return found


@torch.inference_mode()
def top_classes(
    model: nn.Module, images: Float[Tensor, "b c H W"], classes: Sequence[str], top: int
) -> list[Prediction]:
    """Return the most probable classes of images of one size."""
    height, width = images.shape[-2:]
    logits = model.eval()(images.to(next(model.parameters()).device)).float().cpu()
    if logits.shape[-1] != len(classes):
        raise ValueError(f"got {len(classes)} class names for {logits.shape[-1]} logits; give one name per class")
    names, found = list(classes), logits.softmax(-1).topk(min(top, len(classes)))
    return [
        Prediction(
            height=height,
            width=width,
            top_classes=tuple(
                RankedClass(name=names[int(i)], probability=p) for i, p in zip(labels, probabilities, strict=True)
            ),
        )
        for labels, probabilities in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]
