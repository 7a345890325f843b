"""A small segmenter, and images labeled with its output at 64 pixels, shifted by a few pixels."""

from dataclasses import asdict

import numpy as np
import torch
from PIL import Image

from ropevit.data.imagenet import MEAN, STD
from ropevit.data.tiny import draw_scene, write_ade
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.model import build_segmenter, save_segmenter
from tasks.segment.small import small_segmenter

CLASSES = ("sky", "sea", "sand", "boat")


def save_tiny(path, classes=CLASSES, position="rope_mixed", inference=None, model=None, **facts):
    """Save an untrained segmenter whose output depends on the image; `model` are other options of it."""
    torch.manual_seed(1)
    config = small_segmenter(**{"position": position} | (model or {}))
    model = build_segmenter(config, len(classes)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    known = {"mean": MEAN, "std": STD, "test_short": 64, "test_long": 80}
    known["inference"] = asdict(inference or InferenceConfig())
    save_segmenter(path, model, config, classes, known | facts)
    return path


def write_images(root, predict):
    """Write six images labeled by `predict(image)` (H, W) from 0, except for two rows of ignored pixels."""
    write_ade(root, "val", [draw_scene(number) for number in range(6)])
    (root / "classes.txt").write_text("\n".join(CLASSES))
    for index in range(6):
        path = root / "annotations" / "validation" / f"ADE_val_{index + 1:08}.png"
        image = Image.open(path.parents[2] / "images" / "validation" / f"{path.stem}.jpg").convert("RGB")
        labels = np.roll(predict(image), 3, axis=1).astype(np.uint8) + 1
        labels[:2] = 0
        Image.fromarray(labels).save(path)
    return root
