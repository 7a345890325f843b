"""A training of a small detector on six generated images of at most 64 pixels."""

from dataclasses import replace

from ropevit.data.tiny import draw_scene, write_coco
from ropevit.tasks.detect.recipes import find_recipe

#: Six images with two shapes each; the first with a crowd, too.
SCENES = (0, 1, 2, 3, 4, 6)


def write_images(root, scenes=SCENES):
    """Write the same images for training and validation."""
    for split in ("train", "val"):
        write_coco(root, split, [draw_scene(number) for number in scenes])
    return root


def small_training(root, out, steps=6, model=None, **run):
    """Return the config of a training of that many steps, each on all images."""
    config = find_recipe("detect/dino_smoke")
    changes = {"out": out, "device": "cpu", "log_interval": 1, "save_interval": 1000, "val_interval": 1000} | run
    return replace(
        config,
        data=str(root),
        batch_size=6,
        model=replace(config.model, drop_path=0.1, **(model or {})),
        optim=replace(config.optim, epochs=steps),
        run=replace(config.run, **changes),
    )
