"""Small models built by timm, their weights in the published layout, and a hub cache that holds them."""

from pathlib import Path

import timm
import torch

import ropevit.integrations.timm  # noqa: F401  (registers our models)
from ropevit.models import SwinConfig
from weights.checkpoints import filled, published_swin, small_shapes

MIXED = "rope_mixed_deit_small_patch16_LS"
BOTH = "rope_mixed_ape_deit_small_patch16_LS"
SWIN = "swin_rope_mixed_tiny_patch4_window7_224"
RPB = "swin_rope_mixed_rpb_tiny_patch4_window7_224"

VIT_SIZES = {"depth": 2, "embed_dim": 96, "num_heads": 3, "img_size": 64, "num_classes": 10}
SWIN_SIZES = {"depths": (2, 2), "embed_dim": 16, "num_heads": (2, 4), "img_size": 64, "num_classes": 10}


def small(name: str) -> dict:
    """Options for a small model of this name."""
    return SWIN_SIZES | {"window_size": 4} if "swin" in name else VIT_SIZES


def create(name=BOTH, **options):
    """Build a small model by timm, such that nothing hides behind a LayerScale of 1e-4."""
    model = timm.create_model(f"ropevit_{name}", **(small(name) | options))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def published(name=BOTH) -> dict[str, torch.Tensor]:
    """Weights of a small model as published."""
    if "swin" not in name:
        return filled(small_shapes(name.partition("_deit")[0]))
    sizes = {"width": 16, "depths": (2, 2), "heads": (2, 4), "img_size": (64, 64), "window_size": 4, "num_classes": 10}
    return published_swin(SwinConfig(position=name[5:15], **sizes))


def fill_cache(folder: Path, repo: str, revision: str = "main", **files) -> Path:
    """Write files into a cache as the hub's client lays it out; returns the folder."""
    place = folder / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / revision).write_text("abc")
    (place / "snapshots" / "abc").mkdir(parents=True)
    for name, write in files.items():
        write(place / "snapshots" / "abc" / name)
    return folder
