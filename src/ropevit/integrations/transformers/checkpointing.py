"""Gradient checkpointing as transformers does it: the blocks are layers of its `GradientCheckpointingLayer`."""

from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from ropevit.models import Model
from ropevit.models.layers import Block
from ropevit.models.swin.model import SwinBlock


class CheckpointingBlock(GradientCheckpointingLayer, Block):
    """The block of a ViT; transformers wraps the `forward` of a subclass, so there is no way but inheriting."""


class CheckpointingSwinBlock(GradientCheckpointingLayer, SwinBlock):
    """The block of a Swin."""


#: Class of our blocks -> the same with transformers' gradient checkpointing.
_WITH: dict[type[nn.Module], type[nn.Module]] = {Block: CheckpointingBlock, SwinBlock: CheckpointingSwinBlock}


def _blocks(model: nn.Module) -> list[Any]:
    """Return all blocks of a model."""
    return [module for module in model.modules() if isinstance(module, tuple(_WITH))]


def is_checkpointing(model: Model) -> bool:
    """Return whether any block is recomputed in the backward pass."""
    return model.grad_checkpointing or any(getattr(block, "gradient_checkpointing", False) for block in _blocks(model))


def add_checkpointing(model: Model) -> Model:
    """Hand gradient checkpointing over to transformers, in place, enabled if it was; return the model.

    Parameters and `state_dict` stay as they are.
    """
    for block in _blocks(model):
        block.__class__ = _WITH.get(type(block), type(block))
        if model.grad_checkpointing:
            block.gradient_checkpointing = True
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
    model.set_grad_checkpointing(False)
    return model


def remove_checkpointing(model: Model) -> Model:
    """Undo `add_checkpointing`: gradient checkpointing, if enabled, is that of our model again."""
    model.set_grad_checkpointing(is_checkpointing(model))
    plain = {wrapped: own for own, wrapped in _WITH.items()}
    for block in _blocks(model):
        block.__class__ = plain.get(type(block), type(block))
        for name in ("gradient_checkpointing", "_gradient_checkpointing_func"):
            vars(block).pop(name, None)
    return model
