from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ropevit
from ropevit.data.imagenet import imagenet_synsets
from ropevit.models import ViT, ViTConfig

SYNSETS = tuple(imagenet_synsets())


def small_vit(num_classes=1000, position="rope_mixed", size=32, **fields):
    config = ViTConfig(
        position=position, width=32, depth=1, heads=2, img_size=(size, size), num_classes=num_classes, **fields
    )
    return ViT(config).eval()


def stubborn_vit(*best, num_classes=1000):
    """A model that sees the same in every image: these classes, the likeliest first."""
    model = small_vit(num_classes)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        for rank, label in enumerate(best):
            model.head.bias[label] = 100.0 - rank
    return model


@pytest.fixture
def weights(tmp_path):
    """Save a model as a file of ours."""

    def save(model, name="weights", **options) -> str:
        return str(ropevit.save_model(tmp_path / f"{name}.safetensors", model, **options))

    return save


def write_image(path: Path, number: int = 0, side: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (side, side + number % 7, 3))
    Image.fromarray(noise.astype(np.uint8)).save(path, format="png")


@pytest.fixture(scope="session")
def validation(tmp_path_factory):
    """ImageNet's validation images as they lie in folders, one a class; their numbers are not in the classes' order."""
    root = tmp_path_factory.mktemp("imagenet")
    for label, synset in enumerate(SYNSETS):
        write_image(root / "val" / synset / f"ILSVRC2012_val_{1000 - label:08d}.JPEG", label, side=8)
    return root


@pytest.fixture(scope="session")
def pets(tmp_path_factory):
    """Seven images of three classes, and one that cannot be read."""
    root = tmp_path_factory.mktemp("pets")
    for number in range(7):
        write_image(root / "val" / ("bird", "cat", "dog")[number % 3] / f"{number}.png", number)
    (root / "val" / "cat" / "broken.png").write_text("no image")
    return root
