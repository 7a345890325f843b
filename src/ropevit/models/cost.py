"""What a model costs: parameters, and multiply-adds at a size."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from ropevit.models.architectures import Config, build_model
from ropevit.models.sizes import check_size


def count_parameters(config: Config) -> int:
    """Count the parameters of a model without making it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_model(config).parameters())


def count_macs(config: Config, height: int, width: int) -> int:
    """Count the multiply-adds of the matrix products of one image, or clip, which the literature calls FLOPs.

    The rotation is element by element and not in the count (the paper puts it at 0.01 % for ViT-B).

    Args:
        config: The model.
        height: Rows of pixels.
        width: Columns of pixels.

    Raises:
        ValueError: If the model does not take such an image.
    """
    check_size(height, width, config.multiple)
    with torch.device("meta"):
        model, images = build_model(config).eval(), torch.empty(1, *config.input_shape(height, width))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops() // 2
