"""Cost of a model: number of parameters, and MACs at an input size."""

import torch
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
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops() // 2
