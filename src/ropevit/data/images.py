"""Read single images, and resize and normalize them for a model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from ropevit.data.decoding import UNREADABLE, open_rgb, reason


def read_image(path: Path) -> Image.Image:
    """Read an image as RGB, rotated by its EXIF orientation, with transparency on white.

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


def resize_to(image: Image.Image, height: int, width: int, crop: float = 1.0) -> Image.Image:
    """Take the largest center crop with the target aspect ratio, or a part of it, and resize it (bicubic, antialiased).

    This is the evaluation of Heo et al. 2024 (shorter side to the test size, center crop, crop ratio 1) in one step;
    torchvision's Resize and CenterCrop round to whole pixels in between, and so may differ by part of a pixel.
    """
    return ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC, bleed=(1 - crop) / 2)


def keep_aspect_size(image: Image.Image, shorter: int, patch_size: int) -> tuple[int, int]:
    """Return height and width for a shorter side that keep the aspect ratio, as multiples of the patch size."""
    ratio = max(image.size) / min(image.size)
    longer = max(shorter, round(shorter * ratio / patch_size) * patch_size)
    return (shorter, longer) if image.width >= image.height else (longer, shorter)


def to_tensor(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Float[Tensor, "c H W"]:
    """Return an image as a normalized tensor: grayscale for one mean, RGB for three.

    Args:
        image: An image.
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Standard deviation of each channel.
    """
    gray = len(mean) == 1
    pixels = torch.from_numpy(np.array(image.convert("L" if gray else "RGB"), dtype=np.float32)) / 255
    channels = pixels.unsqueeze(0) if gray else pixels.permute(2, 0, 1)
    return (channels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
