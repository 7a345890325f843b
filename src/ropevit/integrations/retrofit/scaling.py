"""`set_scaling` on rotary models of this package and, in place, on those of timm and transformers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from ropevit import models
from ropevit.integrations.retrofit.attention import RetrofitRope
from ropevit.integrations.retrofit.grid import CurrentGrid
from ropevit.integrations.retrofit.replicas import RefuseReplica
from ropevit.integrations.retrofit.rotations import read_rotation
from ropevit.integrations.retrofit.scaled_rope import ScaledRope, hook_patches, hook_queries, remove_hooks
from ropevit.integrations.retrofit.towers import class_names
from ropevit.integrations.retrofit.wrappers import refuse_wrapped
from ropevit.models.base import BaseModel
from ropevit.models.config import as_pair
from ropevit.rope import grid_positions
from ropevit.rope.scaling import CoordinateJitter, Scaling, parse_override, parse_scaling


@runtime_checkable
class RopeOverride(Protocol):
    """Interface of what replaces the rotary embedding of a library by a scaled one, and restores it."""

    def check(self, rope: Any) -> None:
        """Raise ValueError if other code has already replaced it."""
        ...

    def find(self, rope: Any) -> ScaledRope | None:
        """Return the embedding that `insert` installed, if any."""
        ...

    def insert(self, rope: Any, scaled: ScaledRope) -> None:
        """Replace the embedding of the library by a scaled one."""
        ...

    def remove(self, rope: Any) -> None:
        """Restore the embedding of the library, if it was replaced."""
        ...


@dataclass(frozen=True)
class MethodOverride:
    """Replaces methods of timm on the instance by those of `ScaledRope`."""

    names: tuple[str, ...] = ("get_embed",)
    """Names of the methods."""

    def check(self, rope: Any) -> None:
        """Raise ValueError if other code has replaced a method on the instance."""
        for name in self.names:
            if name in vars(rope) and not isinstance(_owner(rope, name), ScaledRope):
                raise ValueError(
                    f"got a {type(rope).__name__} whose {name} was replaced by other code, which set_scaling would "
                    f"undo; restore timm's first: del model.rope.{name}"
                )

    def find(self, rope: Any) -> ScaledRope | None:
        """Return the object whose methods stand in the place of timm's."""
        scaled = _owner(rope, self.names[0])
        return scaled if isinstance(scaled, ScaledRope) else None

    def insert(self, rope: Any, scaled: ScaledRope) -> None:
        """Put our methods in the place of timm's, on this module alone."""
        for name in self.names:
            setattr(rope, name, getattr(scaled, name))

    def remove(self, rope: Any) -> None:
        """Uncover timm's methods."""
        for name in self.names:
            if isinstance(_owner(rope, name), ScaledRope):
                delattr(rope, name)


def _owner(rope: Any, name: str) -> Any:
    """Return the object to which a method that was put on an instance is bound, if any."""
    return getattr(vars(rope).get(name), "__self__", None)


class HookOverride:
    """Replaces the output of a module of transformers, in a forward hook."""

    def check(self, rope: Any) -> None:
        """Accept any module: its other hooks stay."""

    def find(self, rope: Any) -> ScaledRope | None:
        """Return the object whose method is a forward hook."""
        return next((scaled for _, scaled in self._hooks(rope)), None)

    def insert(self, rope: Any, scaled: ScaledRope) -> None:
        """Register our method as a forward hook."""
        rope.register_forward_hook(scaled.replace_output)

    def remove(self, rope: Any) -> None:
        """Remove our forward hook."""
        for key, _ in self._hooks(rope):
            del rope._forward_hooks[key]

    def _hooks(self, rope: Any) -> list[tuple[int, ScaledRope]]:
        """Return the keys of our forward hooks, and the objects whose methods they are."""
        found = ((key, getattr(hook, "__self__", None)) for key, hook in rope._forward_hooks.items())
        return [(key, scaled) for key, scaled in found if isinstance(scaled, ScaledRope)]


@dataclass(frozen=True, kw_only=True)
class RotaryTower:
    """One class of rotary vision transformers: where its rotary embedding and its attention layers are."""

    rope: str
    """Name of its rotary embedding."""
    blocks: str
    """Path of the list of blocks."""
    attention: str
    """Name of the attention layer in a block."""
    queries: str
    """Name of the module in an attention layer that returns the queries, before they are rotated."""
    num_prefix_tokens: Callable[[Any], int]
    """Returns the number of tokens in front of the patches, given the model."""
    trained_grid: Callable[[Any], tuple[int, int]]
    """Returns rows and columns of patches in training, given the model; raises ValueError if the model contradicts
    itself."""
    override: RopeOverride
    """Puts a scaled rotary embedding in the place of the library's own."""
    check_factor: Callable[[Any], None] = lambda _: None
    """Raises ValueError for a model whose attention leaves no room for an attention factor."""
    patches: str | None = None
    """Name of its embedding of patches, where that takes images of several grids as `patch_coord`."""


def _timm_grid(model: Any) -> tuple[int, int]:
    """Return the grid that a model of timm was built for; it must be that of its pretrained weights, if it has any."""
    return _agreed_grid(model, tuple(model.patch_embed.grid_size), model.patch_embed.patch_size)


def _naflex_grid(model: Any) -> tuple[int, int]:
    """Return the grid of an absolute embedding, or of `img_size`; it must be that of its pretrained weights."""
    if model.embeds.pos_embed_grid_size is None:
        raise ValueError("got a NaFlexVit built without img_size; give trained_grid=(rows, columns), that of training")
    return _agreed_grid(model, tuple(model.embeds.pos_embed_grid_size), model.embeds.patch_size)


def _agreed_grid(model: Any, grid: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """Return the grid of a model of timm, unless its pretrained weights have another."""
    size = (getattr(model, "pretrained_cfg", None) or {}).get("input_size", (3, grid[0] * patch[0], grid[1] * patch[1]))
    pretrained = size[-2] // patch[0], size[-1] // patch[1]
    if grid != pretrained:
        raise ValueError(
            f"got {type(model).__name__} for {grid[0]} x {grid[1]} patches, with pretrained weights for "
            f"{pretrained[0]} x {pretrained[1]}; give the one of its training as trained_grid=(rows, columns)"
        )
    return pretrained


def _check_patch_drop(model: Any) -> None:
    """Refuse patch dropout, which changes the number of tokens."""
    if model.patch_drop is not None:
        raise ValueError(
            f"got {type(model).__name__} with patch_drop_rate above 0, which leaves no room for an attention factor "
            "(log, entropy, yarn); build it with patch_drop_rate=0, or choose another scaling method"
        )


_EVA = RotaryTower(
    rope="rope",
    blocks="blocks",
    attention="attn",
    queries="q_norm",
    num_prefix_tokens=lambda model: model.num_prefix_tokens,
    trained_grid=_timm_grid,
    override=MethodOverride(),
    check_factor=_check_patch_drop,
)
_NAFLEX = replace(
    _EVA,
    trained_grid=_naflex_grid,
    override=MethodOverride(("get_embed", "get_batch_embeds")),
    patches="embeds",
)
_DINOV3 = RotaryTower(
    rope="rope_embeddings",
    blocks="model.layer",
    attention="attention",
    queries="q_proj",
    num_prefix_tokens=lambda model: 1 + model.config.num_register_tokens,
    trained_grid=lambda model: (model.rope_embeddings.num_patches_h, model.rope_embeddings.num_patches_w),
    override=HookOverride(),
)
_DINOV3_MODULE = "transformers.models.dinov3_vit.modeling_dinov3_vit"

#: Full name of a class -> where its parts are; a subclass takes the row of the class that it derives from.
_ROTARY_TOWERS = {
    "timm.models.eva.Eva": _EVA,
    "timm.models.naflexvit.NaFlexVit": _NAFLEX,
    f"{_DINOV3_MODULE}.DINOv3ViTModel": _DINOV3,
    f"{_DINOV3_MODULE}.DINOv3ViTBackbone": _DINOV3,
}

_SUPPORTED = (
    "models of this package, timm's Eva (DINOv3, EVA-02, Perception Encoder, vit_*_rope_*) and NaFlexVit, and "
    "transformers' DINOv3 ViT"
)


def set_scaling(model: nn.Module, scaling: str | None, trained_grid: tuple[int, int] | None = None) -> None:
    """Set RoPE scaling for grids larger than the trained one, also in rotary models of timm and transformers, in place.

    >>> ropevit.set_scaling(timm.create_model("vit_small_patch16_dinov3", dynamic_img_size=True), "parts+log")

    Their modules, parameters and `state_dict` stay as they are. At other sizes than that of training the scaling
    replaces the interpolation of positions that some families have: `normalize` is what DINOv3 does. Their own
    augmentation of coordinates in training is kept, unless the scaling has jitter.

    Args:
        model: A model of this package, an `Eva` or a `NaFlexVit` of timm with RoPE, a DINOv3 ViT of transformers, or a
            module that contains some, such as a backbone or a wrapper.
        scaling: Names of scaling methods (`ropevit.rope.scaling.SCALING_METHODS`) joined by +; None or "none" for none.
        trained_grid: Rows and columns of tokens that attended to each other in training; None takes that of the
            model: of its config, or of the image size that it was built for.

    Raises:
        ValueError: If a scaling method is unknown, the module contains no such model, its rotation or its attention
            leaves no room for the scaling, its image size and its pretrained weights have different grids, or it is
            compiled or distributed. The model is then unchanged.
    """
    scaling = None if scaling is None else parse_override(scaling)
    towers = list(_find_towers(model))
    ours = any(isinstance(part, BaseModel) for part in model.modules())
    if not towers and not ours:
        raise ValueError(f"got {type(model).__name__}{_unsupported_reason(model)}; set_scaling supports {_SUPPORTED}")
    if towers:
        refuse_wrapped(model, "set_scaling")
    found = [_scaled_rope(part, tower, scaling, trained_grid) for part, tower in towers]
    if ours:
        models.set_scaling(model, scaling, trained_grid)
    for (part, tower), scaled in zip(towers, found, strict=True):
        _install(part, tower, scaled)


def _unsupported_reason(model: nn.Module) -> str:
    """Return the reason for which a rotary model of other libraries has no scaling; empty for other models."""
    if any(isinstance(part, RetrofitRope) for part in model.modules()):
        return " with the rotation of add_rope, which scaling methods do not change"
    return ""


def _find_towers(model: nn.Module) -> Iterator[tuple[Any, RotaryTower]]:
    """Yield the rotary vision transformers of other libraries in a model, and where their parts are."""
    for part in model.modules():
        name = next((name for name in class_names(part) if name in _ROTARY_TOWERS), None)
        if name is not None:
            yield part, _ROTARY_TOWERS[name]


def _scaled_rope(
    model: Any, tower: RotaryTower, scaling: str | None, trained_grid: tuple[int, int] | None
) -> ScaledRope | None:
    """Build the scaled rotary embedding of a vision transformer, which is left as it is; None for no scaling.

    Raises:
        ValueError: If `set_scaling` does.
    """
    rope = getattr(model, tower.rope, None)
    if rope is None:
        raise ValueError(f"got {type(model).__name__} without RoPE; there is nothing to scale")
    if scaling is None:
        return None
    tower.override.check(rope)
    try:
        rotation = read_rotation(rope, class_names(rope)[0])
        methods = parse_scaling(scaling, _trained_grid(model, tower, trained_grid))
        if _has_factor(methods):
            tower.check_factor(model)
            for block in model.get_submodule(tower.blocks):
                block.get_submodule(f"{tower.attention}.{tower.queries}")
    except AttributeError as error:
        raise ValueError(
            f"got {type(model).__name__} without what set_scaling looks for ({error}): its library has another version "
            "than those in docs/scaling.md; install one of those"
        ) from error
    if rotation.augmentation and not any(isinstance(method, CoordinateJitter) for method in methods.methods):
        methods = replace(methods, methods=(*methods.methods, rotation.augmentation))
    return ScaledRope(rope, rotation, methods, CurrentGrid(tower.num_prefix_tokens(model)))


def _trained_grid(model: Any, tower: RotaryTower, given: tuple[int, int] | None) -> tuple[int, int]:
    """Return the given grid, or that of the scaling which the model has, or that of the model."""
    if given is not None:
        return as_pair(given, "trained_grid")
    before = tower.override.find(getattr(model, tower.rope))
    return tower.trained_grid(model) if before is None else before.scaling.trained_grid


def _has_factor(scaling: Scaling) -> bool:
    """Return whether scaling methods give an attention factor."""
    return scaling(grid_positions(2, 2), torch.ones(2, 1)).attention_factor is not None


def _install(model: Any, tower: RotaryTower, scaled: ScaledRope | None) -> None:
    """Install a scaled rotary embedding in a vision transformer, or restore the original one."""
    rope, blocks = getattr(model, tower.rope), model.get_submodule(tower.blocks)
    tower.override.remove(rope)
    remove_hooks(model)
    if scaled is None:
        return
    tower.override.insert(rope, scaled)
    blocks[0].register_forward_pre_hook(RefuseReplica("set_scaling"))
    if _has_factor(scaled.scaling):
        for block in blocks:
            hook_queries(getattr(block, tower.attention), tower.queries, scaled)
        if tower.patches is not None:
            hook_patches(model, tower.patches, scaled)
