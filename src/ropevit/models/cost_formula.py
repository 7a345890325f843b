"""Cost of a model by a formula, from one block of each stage: the counts of `ropevit.models.cost`, at once."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from ropevit.arithmetic import ceil_div
from ropevit.models.architectures import Config, build_model
from ropevit.models.cost import count_macs, count_parameters
from ropevit.models.sizes import check_size
from ropevit.models.swin import Swin, SwinConfig
from ropevit.models.swin.model import Stage, SwinBlock
from ropevit.models.vit import ViT, ViTConfig


class Cost(NamedTuple):
    """Cost of a model."""

    parameters: int
    macs: int
    """MACs of the matrix products for one image."""


def compute_cost(config: Config, height: int, width: int) -> Cost:
    """Compute what `count_parameters` and `count_macs` count, without running the model.

    Models of other architectures, and of clips, are counted.

    Args:
        config: The model.
        height: Rows of pixels.
        width: Columns of pixels.

    Raises:
        ValueError: If the patches do not tile the image.
    """
    check_size(height, width, config.multiple)
    if isinstance(config, ViTConfig) and not config.is_video:
        return _vit_cost(config, height, width)
    if isinstance(config, SwinConfig):
        return _swin_cost(config, height, width)
    return Cost(count_parameters(config), count_macs(config, height, width))


def _vit_cost(config: ViTConfig, height: int, width: int) -> Cost:
    """Compute the cost of a ViT, whose blocks are alike."""
    with torch.device("meta"):
        model = build_model(replace(config, depth=1))
    assert isinstance(model, ViT)
    patches = (height // config.patch_size) * (width // config.patch_size)
    tokens, block = patches + model.num_prefix_tokens, model.blocks[0]
    macs = patches * _weights(model.patch_embed) + _weights(model.head)
    macs += config.depth * (tokens * _weights(block) + 2 * tokens**2 * config.width)
    if (pool := model.attn_pool) is not None:  # one query
        macs += tokens * (_weights(pool.kv) + 2 * config.width) + sum(map(_weights, (pool.q, pool.proj, pool.mlp)))
    return Cost(_parameters(model) + (config.depth - 1) * _parameters(block), macs)


def _swin_cost(config: SwinConfig, height: int, width: int) -> Cost:
    """Compute the cost of a Swin, whose blocks are alike in each stage; windows are padded."""
    with torch.device("meta"):
        model = build_model(replace(config, depths=(1,) * len(config.depths)))
    assert isinstance(model, Swin)
    rows, columns = (ceil_div(side, config.patch_size) for side in (height, width))
    parameters, macs, window = _parameters(model), rows * columns * _weights(model.patch_embed), config.window_size
    for depth, stage in zip(config.depths, model.layers, strict=True):
        assert isinstance(stage, Stage)
        block = stage.blocks[0]
        assert isinstance(block, SwinBlock)
        padded = ceil_div(rows, window) * ceil_div(columns, window) * window**2
        attention = padded * (_weights(block.attn) + 2 * window**2 * block.attn.qkv.in_features)
        parameters += (depth - 1) * _parameters(block)
        macs += depth * (attention + rows * columns * _weights(block.mlp))
        if stage.downsample is not None:
            rows, columns = ceil_div(rows, 2), ceil_div(columns, 2)
            macs += rows * columns * _weights(stage.downsample)
    return Cost(parameters, macs + _weights(model.head))


def _parameters(module: nn.Module) -> int:
    """Count the parameters of a module."""
    return sum(each.numel() for each in module.parameters())


def _weights(module: nn.Module) -> int:
    """Count the weights of the matrix products of a module: its MACs for one token."""
    return sum(each.weight.numel() for each in module.modules() if isinstance(each, nn.Linear | nn.Conv2d))
