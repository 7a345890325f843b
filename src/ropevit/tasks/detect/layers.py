"""Layers of Deformable DETR, taken from transformers and initialized as in detrex."""

import math
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ropevit.extras import require
from ropevit.tasks.dense.set_prediction import sample_in_float32
from ropevit.tasks.detect.config import DinoConfig

#: Module of the layers in transformers; its weight names are not stable, so a test lists them.
MODULE = "transformers.models.deformable_detr.modeling_deformable_detr"


def _layer_config(config: DinoConfig) -> Any:
    """Return transformers' config of the encoder and decoder layers.

    Raises:
        MissingExtraError: If transformers is not installed.
    """
    return require("transformers", "dense").DeformableDetrConfig(
        d_model=config.width,
        num_feature_levels=config.levels,
        encoder_attention_heads=config.heads,
        decoder_attention_heads=config.heads,
        encoder_n_points=config.points,
        decoder_n_points=config.points,
        encoder_ffn_dim=config.mlp_width,
        decoder_ffn_dim=config.mlp_width,
        dropout=config.dropout,
        attention_dropout=config.dropout,
        attn_implementation="sdpa",
    )


def encoder_layers(config: DinoConfig) -> nn.ModuleList:
    """Build the encoder layers, with deformable attention over the tokens of all levels."""
    layer, theirs = require("ropevit.tasks.detect.encoder_layer", "dense").EncoderLayer, _layer_config(config)
    return nn.ModuleList(_init_layer(layer(theirs)) for _ in range(config.encoder_layers))


def decoder_layers(config: DinoConfig) -> nn.ModuleList:
    """Build the decoder layers, with self-attention of queries and deformable cross-attention."""
    layer, theirs = require(MODULE, "dense").DeformableDetrDecoderLayer, _layer_config(config)
    return nn.ModuleList(_init_layer(layer(theirs)) for _ in range(config.decoder_layers))


def position_maps(config: DinoConfig) -> nn.Module:
    """Build the sine position embedding of the tokens of a map (no weights)."""
    return require(MODULE, "dense").DeformableDetrSinePositionEmbedding(config.width // 2, normalize=True)


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        widths: Channels of the input, of each hidden layer, and of the output.
    """

    def __init__(self, *widths: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., widths[0]) to (..., widths[-1])."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


def set_checkpointing(layers: nn.ModuleList, enable: bool) -> None:
    """Enable or disable gradient checkpointing of the layers."""
    for layer in layers:
        vars(layer)["_gradient_checkpointing_func"] = partial(checkpoint, use_reentrant=False)
        vars(layer)["gradient_checkpointing"] = enable


def _init_layer(layer: nn.Module) -> nn.Module:
    """Initialize a layer as detrex does, and sample its values in float32."""
    attention_class = require(MODULE, "dense").DeformableDetrMultiscaleDeformableAttention
    for name, weight in layer.named_parameters():
        if weight.ndim > 1:
            joint = name.startswith("self_attn.") and name.split(".")[1] in ("q_proj", "k_proj", "v_proj")
            nn.init.xavier_uniform_(
                weight, gain=math.sqrt(0.5) if joint else 1.0
            )  # detrex initializes one matrix of all three
        elif name.startswith("self_attn.") and name.endswith("_proj.bias"):
            nn.init.zeros_(weight)
    for module in layer.modules():
        if isinstance(module, attention_class):
            _init_sampling(module)
            sample_in_float32(module)
    return layer


@torch.no_grad()
def _init_sampling(attention: Any) -> None:
    """Initialize the sampling points: 1, 2, ... tokens away in a direction of each head, with equal weights.

    Source: Zhu et al. 2020 (arXiv:2010.04159), A.3.
    """
    heads, levels, points = attention.n_heads, attention.n_levels, attention.n_points
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    offsets = torch.arange(1, points + 1)[:, None] * direction[:, None, None].expand(heads, levels, 1, 2)
    attention.sampling_offsets.bias.copy_(offsets.flatten())
    for weight in (
        attention.sampling_offsets.weight,
        attention.attention_weights.weight,
        attention.attention_weights.bias,
        attention.value_proj.bias,
        attention.output_proj.bias,
    ):
        weight.zero_()
