"""Classify images: one, or many in batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from ropevit.data.imagenet import MEAN, STD
from ropevit.data.images import keep_aspect_size, read_image, resize_to, to_tensor
from ropevit.data.loading import batches
from ropevit.models.sizes import check_size


@dataclass(frozen=True, kw_only=True)
class Input:
    """How images become a model's input."""

    size: tuple[int, ...]
    """Shorter side, or height and width, in pixels."""
    multiple: int
    """Pixels that divide both sides of the input: the patch of a ViT, 1 where any size will do."""
    whole: bool = False
    """Keep the image's own shape instead of cutting a square from its centre."""
    mean: tuple[float, ...] = MEAN
    """Mean of each channel, for pixels from 0 to 1; one alone asks for grey images."""
    std: tuple[float, ...] = STD
    """Standard deviation of each channel."""

    def __post_init__(self):
        if len(self.size) not in (1, 2):
            raise ValueError(f"got size {self.size}; expected one number (the shorter side) or two (height, width)")
        if self.whole and len(self.size) == 2:
            raise ValueError(f"got size {self.size} and whole; give the shorter side alone to keep the image's shape")
        if min(self.size) < 1:
            raise ValueError(f"got size {self.size}; expected pixels, above 0")
        check_size(self.size[0], self.size[-1], self.multiple)

    def shape(self, image: Image.Image) -> tuple[int, int]:
        """Choose height and width for an image."""
        if self.whole:
            return keep_aspect_size(image, self.size[0], self.multiple)
        return self.size[0], self.size[-1]

    def prepare(self, image: Image.Image) -> Float[Tensor, "c H W"]:
        """Make an image the model's input."""
        return to_tensor(resize_to(image, *self.shape(image)), self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class RankedClass:
    """One class and how sure the model is of it."""

    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The best guesses for an image, best first."""

    height: int
    width: int
    """Sides in pixels at which the model saw it."""
    guesses: tuple[RankedClass, ...]


class Unreadable(str):
    """Why an image could not be read; the line names its file."""

    __slots__ = ()


def classify(model: nn.Module, image: Image.Image, form: Input, classes: Sequence[str], top: int = 5) -> Prediction:
    """Name what is in an image.

    Args:
        model: A classifier; it is put into evaluation mode.
        image: An RGB image, as `read_image` gives it.
        form: How images become the model's input.
        classes: Names in the order of the logits.
        top: How many guesses to give; at most all classes.

    Raises:
        ValueError: If the names do not match the logits.
    """
    return top_classes(model, form.prepare(image).unsqueeze(0), classes, top)[0]


def classify_files(
    model: nn.Module,
    files: Sequence[Path],
    form: Input,
    classes: Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 32,
    workers: int = 0,
) -> Iterator[Prediction | Unreadable]:
    """Classify image files in batches; images of one batch that differ in shape go through the model by shape.

    Args:
        model: A classifier; it is put into evaluation mode.
        files: Image files.
        form: How images become the model's input.
        classes: Names in the order of the logits.
        top: How many guesses to give; at most all classes.
        batch_size: Images that are read together, and go through the model together where they have one shape.
        workers: Processes that read; 0 reads in this one.

    Returns:
        For each file, in their order, its prediction, or why it could not be read.

    Raises:
        ValueError: If the names do not match the logits, or a number is out of range.
    """
    if batch_size < 1:
        raise ValueError(f"got batch_size={batch_size}; expected at least 1")
    keys = (range(len(files))[start : start + batch_size] for start in range(0, len(files), batch_size))
    for images in batches(FileReader(tuple(files), form), keys, workers):
        yield from _classify_batch(model, images, classes, top)


@dataclass(frozen=True)
class FileReader:
    """Reads image files, in the form in which DataLoader asks a data set for a batch."""

    files: tuple[Path, ...]
    form: Input

    def __getitems__(self, indices: Iterable[int]) -> list[Tensor | Unreadable]:
        """Read files; one that cannot be read is answered by the reason."""
        return [self.read(self.files[index]) for index in indices]

    def read(self, path: Path) -> Tensor | Unreadable:
        """Read a file as the model's input (c, H, W)."""
        try:
            return self.form.prepare(read_image(path))
        except ValueError as error:
            return Unreadable(error)


def _classify_batch(
    model: nn.Module, images: Sequence[Tensor | Unreadable], classes: Sequence[str], top: int
) -> list[Prediction | Unreadable]:
    """Classify what was read of a batch, all images of a shape at once."""
    shapes: dict[torch.Size, list[int]] = {}
    for place, image in enumerate(images):
        if isinstance(image, Tensor):
            shapes.setdefault(image.shape, []).append(place)
    found: list[Prediction | Unreadable] = list(images)  # pyright: ignore[reportAssignmentType] (all images are replaced)
    for places in shapes.values():
        stacked = torch.stack([image for place in places if isinstance(image := images[place], Tensor)])
        for place, prediction in zip(places, top_classes(model, stacked, classes, top), strict=True):
            found[place] = prediction
    return found


@torch.inference_mode()
def top_classes(
    model: nn.Module, images: Float[Tensor, "b c H W"], classes: Sequence[str], top: int
) -> list[Prediction]:
    """Give the most probable classes of images of one size."""
    height, width = images.shape[-2:]
    logits = model.eval()(images.to(next(model.parameters()).device)).float().cpu()
    if logits.shape[-1] != len(classes):
        raise ValueError(f"got {len(classes)} class names for {logits.shape[-1]} logits; give a name to each class")
    names, found = list(classes), logits.softmax(-1).topk(min(top, len(classes)))
    return [
        Prediction(
            height=height,
            width=width,
            guesses=tuple(RankedClass(name=names[int(i)], probability=p) for i, p in zip(labels, chances, strict=True)),
        )
        for labels, chances in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]
