"""Checkpoints as the reference writes them: its keys, filled by the recipe of the golden files."""

import json
from pathlib import Path

import torch

from golden import recipe

GOLDEN = Path(__file__).parents[1] / "golden"
LAYOUTS = json.loads((GOLDEN / "checkpoint_layouts.json").read_text())
VITS = [name for name in LAYOUTS if "swin" not in name]
POSITIONS = ["ape", "rope_axial", "rope_mixed", "rope_axial_ape", "rope_mixed_ape"]


def filled(shapes: dict) -> dict[str, torch.Tensor]:
    """Every weight by the recipe; derived tables as the reference computes them, for a square grid."""
    state = {}
    for key, shape in shapes.items():
        if key in ("freqs_t_x", "freqs_t_y"):
            token = torch.arange(shape[0], dtype=torch.float32)
            side = round(shape[0] ** 0.5)
            state[key] = token % side if key.endswith("x") else token.div(side, rounding_mode="floor")
        else:
            state[key] = torch.from_numpy(recipe.weight(key, tuple(shape))).float()  # NumPy 2 gives some in float64
    return state


def small_shapes(position: str, width: int = 96, depth: int = 2, patches: int = 16, classes: int = 10) -> dict:
    """Keys of the published small model of one position embedding, at a smaller size."""
    name = "deit_small_patch16_LS" if position == "ape" else f"{position}_deit_small_patch16_LS"
    sizes = {384: width, 1152: 3 * width, 1536: 4 * width, 192: width // 2, 196: patches, 1000: classes, 12: depth}
    kept = {key: shape for key, shape in LAYOUTS[name].items() if not key.startswith("blocks.") or block(key) < depth}
    return {key: [sizes.get(length, length) for length in shape] for key, shape in kept.items()}


def block(key: str) -> int:
    return int(key.split(".")[1])


def published_swin(config) -> dict[str, torch.Tensor]:
    """A published Swin of any size: weights by the recipe, and the tables that the reference keeps beside them."""
    from ropevit.models import Swin

    with torch.device("meta"):
        shapes = {key: value.shape for key, value in Swin(config).state_dict().items()}
    state = {}
    for key, shape in shapes.items():
        theirs = key.replace("rope.freqs", "rope_freqs")
        state[theirs] = torch.from_numpy(recipe.weight(theirs, tuple(shape))).float()
    window = config.window_size
    token = torch.arange(window**2, dtype=torch.float32)
    for stage, depth in enumerate(config.depths):
        side = config.img_size[0] // config.patch_size // 2**stage
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            if "rope" in config.position:
                state[f"{name}.attn.rope_t_x"] = token % window
                state[f"{name}.attn.rope_t_y"] = token.div(window, rounding_mode="floor")
            if "rpb" in config.position:
                state[f"{name}.attn.relative_position_index"] = relative_index(window)
            if block % 2 and side > window:
                state[f"{name}.attn_mask"] = shift_mask(side, window)
    return state | (swin_frequencies(config) if "axial" in config.position else {})


def swin_frequencies(config) -> dict[str, torch.Tensor]:
    """Fixed frequencies as the reference makes them: learned ones whose direction is 0, so that 0 is -4e-8 at y."""
    state, angle = {}, torch.zeros(1)
    for stage, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
        channels = config.width * 2**stage // heads
        size = 1 / config.theta ** (torch.arange(0, channels, 4)[: channels // 4].float() / channels)
        x = torch.cat([size * angle.cos(), size * (torch.pi / 2 + angle).cos()])
        y = torch.cat([size * angle.sin(), size * (torch.pi / 2 + angle).sin()])
        frequencies = torch.stack([x, y]).unsqueeze(1).repeat(1, heads, 1)
        state |= {f"layers.{stage}.blocks.{block}.attn.rope_freqs": frequencies for block in range(depth)}
    return state


def relative_index(window: int) -> torch.Tensor:
    """Row of the bias table for every query and key, one by one."""
    places = [(row, column) for row in range(window) for column in range(window)]
    return torch.tensor(
        [[(r - s + window - 1) * (2 * window - 1) + c - d + window - 1 for s, d in places] for r, c in places]
    )


def shift_mask(side: int, window: int) -> torch.Tensor:
    """Mask of a shifted block: regions of the shifted map are numbered, and different numbers do not see each other."""
    edges = (slice(0, -window), slice(-window, -(window // 2)), slice(-(window // 2), None))
    regions = torch.zeros(side, side)
    for row, rows in enumerate(edges):
        for column, columns in enumerate(edges):
            regions[rows, columns] = 3 * row + column
    cut = regions.unflatten(1, (-1, window)).unflatten(0, (-1, window)).transpose(1, 2).flatten(2).flatten(0, 1)
    return torch.where(cut[:, None] == cut[:, :, None], 0.0, -100.0)
