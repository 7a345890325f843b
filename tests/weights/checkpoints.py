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
