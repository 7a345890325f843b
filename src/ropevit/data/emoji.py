"""The embedded drawings: emoji of 306 things by four artists, with true detail up to 160 pixels."""

import io
from collections.abc import Collection
from dataclasses import replace
from importlib import resources
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ropevit.data.crops import draw_gradients, on_gradients, premultiply
from ropevit.data.labeled import LabeledImages
from ropevit.data.rng import make_generator

Split = Literal["train", "search", "val", "test"]

#: The artists of each split: those of `test` drew nothing that any training sees.
ARTISTS: dict[str, tuple[str, ...]] = {
    "train": ("noto", "twemoji", "emojione"),
    "search": ("noto", "twemoji"),
    "val": ("emojione",),
    "test": ("fluent-emoji-flat",),
}
SOURCE = (
    "emoji of Noto (Google, Apache 2.0), Twemoji (Twitter, CC BY 4.0), Emojitwo (CC BY 4.0) and Fluent Emoji "
    "(Microsoft, MIT), rendered without other changes"
)
#: Groups of things that a study uses: those that a small model can distinguish.
STUDY_GROUPS = ("animal", "building", "clothing", "fruit", "vehicle")
#: Side of a stored sprite in pixels.
SPRITE_SIZE = 160


def load_emoji(split: Split = "train", size: int = SPRITE_SIZE, groups: Collection[str] | None = None) -> LabeledImages:
    """Load the embedded emoji as colors with an alpha channel, one image a thing and artist.

    Args:
        split: `train` (three artists, 918 images) and `test` (a fourth, 306) are what a study trains and evaluates on.
            For choosing settings without looking at the test artist, `train` is cut into `search` (two artists) and
            `val` (one).
        size: Side of the images in pixels, at most 160; smaller ones are averaged from the stored sprites.
        groups: Kinds of things to load; None loads all eight.

    Returns:
        uint8 images (N, 4, size, size): red, green, blue, alpha (255 is opaque). Classes are the things, groups are
        eight kinds of them.

    Raises:
        ValueError: If there is no such split or group, or the size is larger than the sprites, which would only blur
            them.
    """
    if split not in get_args(Split):
        raise ValueError(f"got split {split!r}; choose one of {', '.join(get_args(Split))}")
    if not 1 <= size <= SPRITE_SIZE:
        raise ValueError(
            f"got a size of {size} px; expected 1 to {SPRITE_SIZE}, the size of the stored sprites "
            "(benchmarks/make_emoji_sprites.py renders larger ones)"
        )
    names, kinds, artists, files = _read_sprites()
    unknown = sorted({*(groups or ())} - {*kinds})
    if unknown:
        raise ValueError(f"got group {unknown[0]!r}; choose from {', '.join(dict.fromkeys(kinds))}")
    chosen = [artists.index(artist) for artist in ARTISTS[split]]
    things = [thing for thing, kind in enumerate(kinds) if groups is None or kind in groups]
    images = [decode(files[artist * len(names) + thing], size) for artist in chosen for thing in things]
    return LabeledImages(
        images=torch.stack(images),
        labels=torch.arange(len(things)).repeat(len(chosen)),
        classes=tuple(names[thing] for thing in things),
        groups=tuple(kinds[thing] for thing in things),
        name=f"emoji/{split}",
        source=SOURCE,
        notes=(f"emoji/{split}: drawn by {', '.join(ARTISTS[split])}",),
    )


def load_emoji_images(split: Split = "train") -> LabeledImages:
    """Load drawings as RGB images on smooth color gradients, labeled by group: the test images of a study's `zoom`.

    Args:
        split: As for `load_emoji`.

    Returns:
        uint8 images (N, 3, 160, 160) of the groups that a study uses.
    """
    data = load_emoji(split, groups=STUDY_GROUPS).grouped()
    gradients = draw_gradients(len(data), make_generator("zoom", "backgrounds"))
    images = on_gradients(premultiply(data.images).float(), gradients)
    return replace(data, images=images.round().to(torch.uint8))


def _read_sprites() -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], list[np.ndarray]]:
    """Read the names and groups of the things, the artists, and the encoded sprites, artist by artist."""
    with (resources.files("ropevit.data") / "emoji" / "sprites.npz").open("rb") as file, np.load(file) as stored:
        names, groups, artists = (tuple(stored[key].tolist()) for key in ("names", "groups", "artists"))
        return names, groups, artists, np.split(stored["files"], np.cumsum(stored["lengths"])[:-1])


def decode(file: np.ndarray, size: int) -> UInt8[Tensor, "4 size size"]:
    """Decode a sprite and average it down to a size; colors count by how opaque they are."""
    with Image.open(io.BytesIO(file.tobytes())) as image:
        sprite = torch.from_numpy(np.array(image.convert("RGBA"))).movedim(2, 0)
    if sprite.shape[1] == size:
        return sprite
    alpha = sprite[3:].float() / 255
    small = F.interpolate(
        torch.cat([sprite[:3] * alpha, 255 * alpha])[None], (size, size), mode="bilinear", antialias=True
    )[0]
    colors = small[:3] / (small[3:] / 255).clamp(min=1e-6)
    return torch.cat([colors, small[3:]]).clamp(0, 255).round().to(torch.uint8)
