import pytest

from ropevit.models import Swin, SwinConfig, ViT, ViTConfig


@pytest.fixture
def vit():
    """Builds a small ViT of 4 x 6 patches, with other fields where they are given."""

    def build(position="rope_mixed", **fields):
        config = {"width": 32, "depth": 2, "heads": 2, "patch_size": 8, "img_size": (32, 48), "num_classes": 3}
        return ViT(ViTConfig(position=position, **{**config, **fields})).eval()

    return build


@pytest.fixture
def swin():
    """Builds a small Swin of two stages, with windows of 4 x 4 tokens."""

    def build(position="rope_mixed", **fields):
        config = {
            "width": 16,
            "depths": (1, 2),
            "heads": (2, 4),
            "window_size": 4,
            "img_size": (32, 32),
            "num_classes": 3,
        }
        return Swin(SwinConfig(position=position, **{**config, **fields})).eval()

    return build
