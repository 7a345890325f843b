"""The embedded data set: a balanced subset of Fashion-MNIST, so that a study needs no download."""

from importlib import resources
from typing import Literal

import numpy as np
import torch

from ropevit.data.labeled import LabeledImages

Split = Literal["train", "search", "val", "test"]

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
#: Label of each class in the `field` panel: classes that look alike on small items share one.
GROUPS = ("top", "trouser", "top", "dress", "top", "shoe", "top", "shoe", "bag", "shoe")
SOURCE = "Fashion-MNIST, a balanced part (arXiv:1708.07747), copyright 2017 Zalando SE, MIT licence"
#: Size of `val`, the end of the training file; classes are interleaved in it, so that both parts are balanced.
_NUM_VAL_IMAGES = 1_000


def load_fashion(split: Split = "train") -> LabeledImages:
    """Load the embedded Fashion-MNIST images (28 x 28, gray, ten classes, balanced).

    Args:
        split: A study trains on `train` (10,000 images) and evaluates on `test` (2,000). To choose hyperparameters
            without the test images, `train` is divided into `search` (9,000) and `val` (1,000).

    Returns:
        The images and labels of the split.

    Raises:
        ValueError: If there is no such split.
    """
    parts = {
        "train": ("train", slice(None)),
        "search": ("train", slice(None, -_NUM_VAL_IMAGES)),
        "val": ("train", slice(-_NUM_VAL_IMAGES, None)),
        "test": ("test", slice(None)),
    }
    if split not in parts:
        raise ValueError(f"got split {split!r}; choose one of {', '.join(parts)}")
    stored, part = parts[split]
    with (resources.files("ropevit.data") / "fashion" / "images.npz").open("rb") as file, np.load(file) as arrays:
        images = torch.from_numpy(arrays[f"{stored}_images"][part]).unsqueeze(1)
        labels = torch.from_numpy(arrays[f"{stored}_labels"][part].astype(np.int64))
    name = f"fashion/{split}"
    return LabeledImages(images=images, labels=labels, classes=CLASSES, groups=GROUPS, name=name, source=SOURCE)
