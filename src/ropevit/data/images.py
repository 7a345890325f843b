"""Images for a model: read from a file that somebody names, and fitted to the input."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from ropevit.data.decoding import UNREADABLE, open_rgb, reason


def read_image(path: Path) -> Image.Image:
    """Read an image as RGB, upright; transparency goes on white, palettes, greys and CMYK are converted.

    Raises:
        ValueError: If there is no such file, or it cannot be read as an image.
    """
    try:
        return open_rgb(path)
    except FileNotFoundError:
        raise ValueError(f"no image at {path}; check the path") from None
    except IsADirectoryError:
        raise ValueError(f"got the folder {path}; expected image files, such as {path}/*.jpg") from None
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an image ({reason(error)}); convert or remove it") from None


def resize_to(image: Image.Image, height: int, width: int) -> Image.Image:
    """Cut out the largest part of the middle that has the wanted shape, and resize it (bicubic, antialiased).

    This is the evaluation of Heo et al. 2024 (shorter side to the test size, centre crop, crop ratio 1) in one step;
    torchvision's Resize and CenterCrop round to whole pixels in between, and so may differ by part of a pixel.
    """
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)


def keep_aspect_size(image: Image.Image, shorter: int, patch_size: int) -> tuple[int, int]:
    """Choose a height and width near the image's own shape: shorter side as given, longer a multiple of the patch."""
    ratio = max(image.size) / min(image.size)
    longer = max(shorter, round(shorter * ratio / patch_size) * patch_size)
    return (shorter, longer) if image.width >= image.height else (longer, shorter)


def to_tensor(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Float[Tensor, "c H W"]:
    """Make a normalised tensor; one mean asks for a grey image, three for a coloured one.

    Args:
        image: An image.
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Spread of each channel.
    """
    grey = len(mean) == 1
    pixels = torch.from_numpy(np.array(image.convert("L" if grey else "RGB"), dtype=np.float32)) / 255
    channels = pixels.unsqueeze(0) if grey else pixels.permute(2, 0, 1)
    return (channels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
