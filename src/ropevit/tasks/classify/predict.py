"""Name what is in an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import nn

from ropevit.data.imagenet import MEAN, STD
from ropevit.data.images import fit, to_tensor, whole_size
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
    """The best guesses for an image, best first."""

    height: int
    width: int
    """Sides in pixels at which the model saw it."""
    guesses: tuple[Guess, ...]


@torch.inference_mode()
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
    height, width = form.shape(image)
    pixels = to_tensor(fit(image, height, width), form.mean, form.std).unsqueeze(0)
    chances = model.eval()(pixels.to(next(model.parameters()).device)).float().softmax(-1)[0]
    if len(chances) != len(classes):
        raise ValueError(f"got {len(classes)} class names for {len(chances)} logits; give a name to each class")
    best = chances.topk(min(top, len(classes)))
    names = [classes[int(index)] for index in best.indices]
    pairs = zip(names, best.values.tolist(), strict=True)
    guesses = tuple(Guess(name=name, probability=chance) for name, chance in pairs)
    return Prediction(height=height, width=width, guesses=guesses)
