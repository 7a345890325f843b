"""`add_rope`: rotate the queries and keys of a pretrained vision transformer, with angles that start at 0."""

import re
from typing import Any, TypeVar

import torch
from torch import nn

from ropevit.integrations.retrofit.attention import RetrofitRope
from ropevit.integrations.retrofit.towers import SUPPORTED, add_to_tower, find_attention, find_tower
from ropevit.integrations.retrofit.wrappers import refuse_wrapped
from ropevit.rope import AxialRope, GatedAxialRope, MixedRope


def mixed(heads: int, channels: int, device: Any) -> RetrofitRope:
    """Build RoPE-Mixed with learned frequencies that start at 0: every angle is 0, their gradients are not."""
    rope = MixedRope(channels, heads)
    with torch.no_grad():
        rope.freqs.zero_()
    return rope.to(device)


def axial(heads: int, channels: int, device: Any) -> RetrofitRope:
    """Build RoPE-Axial with a learned gate per head that starts at 0."""
    return GatedAxialRope(channels, heads).to(device)


#: rope type -> function (heads, channels per head, device) that builds the rotation of one layer
ROPE_FACTORIES = {"mixed": mixed, "axial": axial}

Model = TypeVar("Model", bound=nn.Module)


def add_rope(model: Model, rope_type: str = "mixed") -> Model:
    """Add RoPE to every attention layer of a pretrained vision transformer.

    All angles start at 0, so outputs are unchanged until the model is fine-tuned. The absolute position embedding is
    kept. Class, distillation and register tokens are not rotated. Existing entries of the `state_dict` keep their
    names; `...rope.freqs` (and `...rope.gate`) are new. To load a retrofitted model, build the original, call
    `add_rope`, then `load_state_dict`.

    Args:
        model: A `VisionTransformer` of timm, torchvision or open_clip, or a ViT, DeiT, CLIP vision model or DINOv2 of
            transformers, alone or inside another model. It is changed in place.
        rope_type: "mixed": learned frequencies that start at 0. "axial": fixed frequencies (theta 100), scaled by a
            learned gate per head that starts at 0.

    Returns:
        The same model.

    Raises:
        ValueError: If the rope type or the model is not supported, the model has RoPE already, is compiled or
            distributed, or its channels per head are not a multiple of 4. The model is then unchanged.

    Source: Heo et al. 2024 (arXiv:2403.13298), RoPE-Axial and RoPE-Mixed; docs/retrofit.md derives the initialization.
    """
    if rope_type not in ROPE_FACTORIES:
        raise ValueError(f"got rope_type={rope_type!r}; choose one of {', '.join(ROPE_FACTORIES)}")
    refuse_wrapped(model, "add_rope")
    towers = [(part, tower) for part in model.modules() if (tower := find_tower(part)) is not None]
    for part in [part for part, _ in towers] or [model]:  # a language model beside the tower may have RoPE
        _refuse_existing_rope(part)
    if not towers:
        raise ValueError(f"got a {type(model).__name__}; add_rope supports {SUPPORTED}")
    for part, tower in towers:
        find_attention(part, tower)  # raises before any tower is changed
    for part, tower in towers:
        add_to_tower(part, tower, ROPE_FACTORIES[rope_type])
    return model


def rope_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the RoPE parameters of a model, which need their own optimizer group: no weight decay, higher rate.

    Returns:
        Learned frequencies and gates by their names in `model.named_parameters()`.
    """
    ropes = [part for part in model.modules() if isinstance(part, MixedRope | GatedAxialRope)]
    ours = {id(parameter) for rope in ropes for parameter in rope.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in ours}


def _refuse_existing_rope(model: nn.Module) -> None:
    """Raise ValueError for a model that has rotary embeddings, from `add_rope` or its own library."""
    parts = {type(part).__name__: part for part in model.modules()}
    ours = [name for name, part in parts.items() if isinstance(part, AxialRope | MixedRope | GatedAxialRope)]
    if ours:
        raise ValueError(f"got a {type(model).__name__} that has RoPE already ({ours[0]}); call add_rope only once")
    theirs = [name for name, part in parts.items() if re.search("Rotary|Ro[pP][eE]", name) or _has_rope(part)]
    if theirs:
        raise ValueError(
            f"got a {type(model).__name__} that has RoPE already ({theirs[0]}); expected a model with an absolute "
            "position embedding only: fine-tune this one as it is"
        )


def _has_rope(part: nn.Module) -> bool:
    """Return whether a module has an attribute `rope`, the usual name of a rotary embedding."""
    return getattr(part, "rope", None) is not None
