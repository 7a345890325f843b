"""`add_rope`: make a pretrained vision transformer rotate queries and keys, starting at its own function."""

import re
from typing import Any, TypeVar

import torch
from torch import nn

from ropevit.integrations.retrofit.attention import Rope
from ropevit.integrations.retrofit.towers import SUPPORTED, add_to_tower, ancestry, attention_layers, find_tower
from ropevit.rope import AxialRope, GatedAxialRope, MixedRope


def mixed(heads: int, channels: int, device: Any) -> Rope:
    """Make RoPE-Mixed whose learned frequencies start at 0: no angle, but a gradient."""
    rope = MixedRope(channels, heads)
    with torch.no_grad():
        rope.freqs.zero_()
    return rope.to(device)


def axial(heads: int, channels: int, device: Any) -> Rope:
    """Make RoPE-Axial behind a learned gate for each head that starts at 0."""
    return GatedAxialRope(channels, heads).to(device)


#: kind -> what makes the rotation of a layer
ROPE_FACTORIES = {"mixed": mixed, "axial": axial}

#: Wrappers that would not see the new parameters, or would go on without the rotation.
_WRAPPERS = {
    "torch._dynamo.eval_frame.OptimizedModule",
    "torch.jit._script.ScriptModule",
    "torch.fx.graph_module.GraphModule",
    "torch.nn.parallel.data_parallel.DataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
    "torch.distributed.fsdp._fully_shard._fully_shard.FSDPModule",
}


Model = TypeVar("Model", bound=nn.Module)


def add_rope(model: Model, kind: str = "mixed") -> Model:
    """Make every attention layer of a pretrained vision transformer rotate its queries and keys.

    The model computes at first what it computed before, as every angle is 0, and learns to rotate when it is trained.
    Its absolute embedding stays. Class, distillation and register tokens are not turned. All old entries of its
    `state_dict` keep their names; `...rope.freqs` (and `...rope.gate`) are new. To load a retrofitted model, build the
    original, call `add_rope`, then `load_state_dict`.

    Args:
        model: Of timm, torchvision or open_clip (`VisionTransformer`) or transformers (ViT, DeiT, CLIP vision,
            DINOv2), alone or inside another model. It is changed in place.
        kind: "mixed", learned frequencies that start at 0; or "axial", fixed frequencies (theta 100) that a learned
            gate for each head fades in.

    Returns:
        The same model.

    Raises:
        ValueError: If the kind or the model is not known, the model rotates already, is compiled or distributed, or its
            heads' channels are not a multiple of 4; the model is then left as it was.

    Source: the angles are those of Heo et al. 2024 (arXiv:2403.13298), RoPE-Axial and RoPE-Mixed; the start is
    explained in docs/retrofit.md.
    """
    if kind not in ROPE_FACTORIES:
        raise ValueError(f"got kind={kind!r}; choose one of {', '.join(ROPE_FACTORIES)}")
    _refuse_wrapped(model)
    towers = [(part, tower) for part in model.modules() if (tower := find_tower(part)) is not None]
    for part in [part for part, _ in towers] or [model]:  # a language model beside a tower may rotate
        _refuse_rotating(part)
    if not towers:
        raise ValueError(f"got a {type(model).__name__}; add_rope supports {SUPPORTED}")
    for part, tower in towers:
        attention_layers(part, tower)  # refuses before anything is changed
    for part, tower in towers:
        add_to_tower(part, tower, ROPE_FACTORIES[kind])
    return model


def rope_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name the parameters of all rotations in a model: not to be decayed, and free to learn at a rate of their own.

    Returns:
        Learned frequencies and gates by their names in `model.named_parameters()`.
    """
    ropes = [part for part in model.modules() if isinstance(part, MixedRope | GatedAxialRope)]
    ours = {id(parameter) for rope in ropes for parameter in rope.parameters()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in ours}


def _refuse_rotating(model: nn.Module) -> None:
    """Refuse a model with rotary embeddings, ours or another library's."""
    kinds = {type(part).__name__: part for part in model.modules()}
    ours = [name for name, part in kinds.items() if isinstance(part, AxialRope | MixedRope | GatedAxialRope)]
    if ours:
        raise ValueError(f"got a {type(model).__name__} that rotates already, with {ours[0]}; call add_rope once")
    theirs = [name for name, part in kinds.items() if re.search("Rotary|Ro[pP][eE]", name) or _has_rope(part)]
    if theirs:
        raise ValueError(
            f"got a {type(model).__name__} that rotates already, with {theirs[0]}; add_rope is for models with an "
            "absolute embedding only"
        )


def _has_rope(part: nn.Module) -> bool:
    """Tell whether a module keeps a rotary embedding that is not a module, or under its usual name."""
    return getattr(part, "rope", None) is not None


def _refuse_wrapped(model: nn.Module) -> None:
    """Refuse a model that is compiled or distributed: it would not see the rotation, or not reduce its gradients."""
    for part in model.modules():
        if _WRAPPERS.intersection(ancestry(part)) or part._compiled_call_impl is not None:
            raise ValueError(
                f"got a {type(model).__name__} that is compiled, scripted or distributed; call add_rope before"
            )
