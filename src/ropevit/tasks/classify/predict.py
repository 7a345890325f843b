"""Name what is in an image."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from ropevit.data.imagenet import MEAN, STD
from ropevit.data.images import fit, read_image, to_tensor, whole_size
from ropevit.models.sizes import check_size


@dataclass(frozen=True, kw_only=True)
class Input:
    """How pictures become a model's input."""

    size: tuple[int, ...]
    """Shorter side, or height and width, in pixels."""
    multiple: int
    """Pixels that divide both sides of the input: the patch of a ViT, 1 where any size will do."""
    whole: bool = False
    """Keep the picture's own shape instead of cutting a square from its centre."""
    mean: tuple[float, ...] = MEAN
    """Mean of each channel, for pixels from 0 to 1."""
    std: tuple[float, ...] = STD
    """Spread of each channel."""

    def __post_init__(self):
        if len(self.size) not in (1, 2):
            raise ValueError(f"got size {self.size}; expected one number (the shorter side) or two (height, width)")
        if self.whole and len(self.size) == 2:
            raise ValueError(f"got size {self.size} and whole; give the shorter side alone to keep the picture's shape")
        if min(self.size) < 1:
            raise ValueError(f"got size {self.size}; expected pixels, above 0")
        check_size(self.size[0], self.size[-1], self.multiple)

    def shape(self, image: Image.Image) -> tuple[int, int]:
        """Choose height and width for a picture."""
        if self.whole:
            return whole_size(image, self.size[0], self.multiple)
        return self.size[0], self.size[-1]


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One class and how sure the model is of it."""

    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The best guesses for one image, best first."""

    path: Path
    height: int
    width: int
    guesses: tuple[Guess, ...]


def predict_each(
    model: nn.Module, paths: Iterable[Path], form: Input, classes: Sequence[str], top: int = 5
) -> Iterator[Prediction]:
    """Classify image files one by one, each at its own size, as they are asked for.

    Args:
        model: A classifier; it is put into evaluation mode.
        paths: Image files.
        form: How pictures become the model's input.
        classes: Names in the order of the logits.
        top: How many guesses to give; at most all classes.

    Yields:
        The best guesses for each file, in the order of the files.

    Raises:
        ValueError: If a file cannot be read, or the names do not match the logits.
    """
    device = next(model.parameters()).device
    model.eval()
    for path in paths:
        image = read_image(path)
        height, width = form.shape(image)
        pixels = to_tensor(fit(image, height, width), form.mean, form.std).unsqueeze(0)
        with torch.inference_mode():
            chances = model(pixels.to(device)).float().softmax(-1)[0]
        if len(chances) != len(classes):
            raise ValueError(f"got {len(classes)} class names for {len(chances)} logits; give a name to each class")
        best = chances.topk(min(top, len(classes)))
        names = [classes[int(index)] for index in best.indices]
        pairs = zip(names, best.values.tolist(), strict=True)
        guesses = tuple(Guess(name=name, probability=chance) for name, chance in pairs)
        yield Prediction(path=path, height=height, width=width, guesses=guesses)
