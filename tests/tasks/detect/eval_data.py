"""A small detector, and images annotated with some of its detections at 64 pixels."""

import json

import torch

from ropevit.data.coco import open_coco
from ropevit.data.imagenet import MEAN, STD
from ropevit.tasks.detect.model import Detector, save_detector
from tasks.detect.generated import small_training, write_images

#: Minimal model; its test size is 64 pixels.
TINY = {"width": 16, "depth": 1, "heads": 1, "patch_size": 16, "window": 2}
CLASSES, IDS = ["disc", "square", "triangle"], [1, 3, 90]


def save_tiny(path, classes=CLASSES, ids=IDS, position="rope_mixed", **facts):
    """Save an untrained detector whose output depends on the image."""
    torch.manual_seed(3)
    config = small_training("data", path.parent, model=TINY | {"position": position}).model
    model = Detector(config, len(classes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    known = {"mean": MEAN, "std": STD, "test_side": 64, "longest": 80, "top": 20, "category_ids": ids}
    save_detector(path, model, config, classes, known | facts)
    return path


def annotate(root, rows):
    """Make every fifth detection an object, shifted a little, so that the overlap varies."""
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    objects = []
    for number, (image, left, top, width, height, _, category) in enumerate(rows[::5].tolist(), 1):
        box = [left + number % 3, top, width, height]
        content_of = {"id": number, "image_id": int(image), "category_id": int(category), "bbox": box}
        objects.append(content_of | {"area": width * height, "iscrowd": int(number % 7 == 0)})
    path.write_text(json.dumps(content | {"annotations": objects}))


def open_images(root):
    """Write images without the objects, which `annotate` adds, and open them."""
    write_images(root)
    return open_coco(root, "val", keep_empty=True)
