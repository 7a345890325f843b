"""A training of a small segmenter on three generated images."""

from dataclasses import replace

import numpy as np
from PIL import Image

from ropevit.data.tiny import draw_scene, write_ade
from ropevit.tasks.segment.recipes import RECIPES
from tasks.segment.small import small_segmenter

#: Three images with two shapes each.
SCENES = (0, 1, 2)
CLASSES = ["ground", "disc", "square", "triangle"]


def write_images(root, scenes=SCENES):
    """Write the same images for training and validation, with four classes."""
    for split in ("train", "val"):
        write_ade(root, split, [draw_scene(number) for number in scenes])
    few = np.zeros(256, np.uint8)
    few[[1, 13, 21, 150]] = 1, 2, 3, 4
    for path in root.glob("annotations/*/*.png"):
        with Image.open(path) as image:
            labels = few[np.asarray(image)]
        Image.fromarray(labels).save(path)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def small_training(root, out, steps=6, head="upernet", **run):
    """Return a training of so many steps, each on three crops of 64 pixels."""
    config = RECIPES[f"segment/{head}_smoke"]()
    changes = {"out": out, "device": "cpu", "log_interval": 1, "save_interval": 1000, "val_interval": 1000} | run
    return replace(
        config,
        data=str(root),
        batch_size=3,
        model=small_segmenter(head, drop_path=0.1),
        optim=replace(config.optim, steps=steps, warmup_steps=2),
        run=replace(config.run, **changes),
    )
