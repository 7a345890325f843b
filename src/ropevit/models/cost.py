"""Cost of a model: number of parameters, and MACs at an input size."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ropevit.models.architectures import Config, build_model
from ropevit.models.sizes import check_size


def count_parameters(config: Config) -> int:
    """Count the parameters of a model without allocating it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(config).parameters())


def count_macs(config: Config, height: int, width: int) -> int:
    """Count the MACs (multiply-adds, often reported as FLOPs) of the matrix products for one image or clip.

    The rotation is elementwise and not counted (0.01 % for ViT-B according to the paper).

    Args:
        config: The model.
        height: Rows of pixels.
        width: Columns of pixels.

    Raises:
        ValueError: If the patches do not tile the image.
    """
    check_size(height, width, config.multiple)
    with torch.device("meta"):
        model, images = build_model(config).eval(), torch.empty(1, *config.input_shape(height, width))
    repeats = _skip_equal_blocks(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    counts = {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}
    root = type(model).__name__
    skipped = sum(count * counts.get(f"{root}.{block}", 0) for block, count in repeats.items())
    return (counter.get_total_flops() + skipped) // 2


class _Skipped(nn.Module):
    """Stands for a block that costs as much as the first one of its stage."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return x


def _skip_equal_blocks(model: nn.Module) -> dict[str, int]:
    """Replace blocks with weights of the same shapes, all but the first; return how many each first one stands for."""
    repeats = {}
    for name, blocks in list(model.named_modules()):
        if not isinstance(blocks, nn.ModuleList):
            continue
        kinds = {(type(block), *((key, value.shape) for key, value in block.state_dict().items())) for block in blocks}
        if len(kinds) == 1 and len(blocks) > 1:
            repeats[f"{name}.0"] = len(blocks) - 1
            for index in range(1, len(blocks)):
                blocks[index] = _Skipped()
    return repeats
