"""The vision transformers that `add_rope` knows, one row a class, named so that nothing need be imported."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ropevit.integrations.retrofit.attention import Rope, hook_attention
from ropevit.integrations.retrofit.grid import CurrentGrid
from ropevit.integrations.retrofit.packed import PackedAttention, check_plain
from ropevit.rope import pairs_per_axis

#: Makes the rotation of a layer from its heads, channels per head and device.
MakeRope = Callable[[int, int, Any], Rope]


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One class of attention layers, and how rotation gets into it."""

    name: str
    """The class."""
    attach: Callable[[Any, str, MakeRope, CurrentGrid], None]
    """Adds rotation to the layer of a name in a block."""
    check: Callable[[Any], None] = lambda _: None
    """Refuses a layer with options that cannot be kept."""


@dataclass(frozen=True, kw_only=True)
class TowerSpec:
    """How one class of vision transformers is built."""

    embedding: str
    """Path of the module that makes patches of images."""
    grid: Callable[[nn.Module, Tensor, Tensor], tuple[int, int]]
    """Gives rows and columns of patches from that module, what it was given and what it returned."""
    num_prefix: Callable[[Any], int]
    """Gives the tokens in front of the patches."""
    layers: str
    """Path of the list of blocks; each must have attention that is known."""
    attention: tuple[Attention, ...]
    """What attends in a block: one of these."""
    check: Callable[[Any], str] = lambda _: ""
    """Says what keeps a model from being retrofitted, if anything."""


def _output_grid(module: nn.Module, images: Tensor, maps: Tensor) -> tuple[int, int]:
    """Read the grid from what a convolution returned."""
    del module, images
    return maps.shape[-2], maps.shape[-1]


def _timm_grid(module: Any, images: Tensor, tokens: Tensor) -> tuple[int, int]:
    """Ask a patch embedding of timm, which may pad."""
    del tokens
    return module.dynamic_feat_size((images.shape[-2], images.shape[-1]))


def _check_timm(model: Any) -> str:
    """Refuse tokens that are dropped: those that stay cannot be told."""
    return (
        "" if isinstance(model.patch_drop, nn.Identity) else "patch_drop_rate above 0; build it with patch_drop_rate=0"
    )


def _check_open_clip(model: Any) -> str:
    """Refuse tokens that are dropped: those that stay cannot be told."""
    kept = isinstance(model.patch_dropout, nn.Identity)
    return "" if kept else "patch_dropout above 0; build it with force_patch_dropout=0"


def _check_cosine(attention: Any) -> None:
    """Refuse scaled cosine attention of open_clip, which passes its queries and keys by the norms that are hooked."""
    if attention.scaled_cosine:
        raise ValueError("got an Attention of open_clip with scaled_cosine=True; add_rope needs scaled_cosine=False")


def _attach_timm(block: Any, name: str, make: MakeRope, grid: CurrentGrid) -> None:
    """Turn what q_norm and k_norm return; they are identities where a model normalises neither."""
    attention = block.get_submodule(name)
    rope = make(attention.num_heads, attention.head_dim, attention.qkv.weight.device)
    hook_attention(attention, ("q_norm", "k_norm"), attention.num_heads, rope, grid)


def _attach_transformers(block: Any, name: str, make: MakeRope, grid: CurrentGrid) -> None:
    """Turn what q_proj and k_proj return; transformers then chooses its implementation of attention as ever."""
    attention = block.get_submodule(name)
    heads = attention.q_proj.out_features // attention.head_dim
    rope = make(heads, attention.head_dim, attention.q_proj.weight.device)
    hook_attention(attention, ("q_proj", "k_proj"), heads, rope, grid)


def _attach_open_clip(block: Any, name: str, make: MakeRope, grid: CurrentGrid) -> None:
    """Turn what ln_q and ln_k return; they are identities where a model normalises neither."""
    attention = block.get_submodule(name)
    rope = make(attention.num_heads, attention.head_dim, attention.in_proj_weight.device)
    hook_attention(attention, ("ln_q", "ln_k"), attention.num_heads, rope, grid)


def _attach_packed(block: Any, name: str, make: MakeRope, grid: CurrentGrid) -> None:
    """Replace the attention layer by one with the same parameters."""
    attention = block.get_submodule(name)
    rope = make(attention.num_heads, attention.head_dim, attention.in_proj_weight.device)
    block.set_submodule(name, PackedAttention(attention, rope, grid))


def _transformers_row(kind: str, name: str, layers: str, num_prefix: Callable[[Any], int] = lambda _: 1) -> TowerSpec:
    """Describe a model of transformers, whose modules are all named in one way."""
    return TowerSpec(
        embedding="embeddings.patch_embedding" if kind == "clip" else "embeddings.patch_embeddings.projection",
        grid=_output_grid,
        num_prefix=num_prefix,
        layers=layers,
        attention=(
            Attention(name=f"transformers.models.{kind}.modeling_{kind}.{name}Attention", attach=_attach_transformers),
        ),
    )


def registers(model: Any) -> int:
    """Count the class token and the registers."""
    return 1 + model.config.num_register_tokens


PACKED = Attention(name="torch.nn.modules.activation.MultiheadAttention", attach=_attach_packed, check=check_plain)
_DINOV2 = _transformers_row("dinov2", "Dinov2", "encoder.layer")
_DINOV2_REGISTERS = _transformers_row("dinov2_with_registers", "Dinov2WithRegisters", "encoder.layer", registers)
_DINOV2_MODULE = "transformers.models.dinov2.modeling_dinov2"
_REGISTERS_MODULE = "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers"

#: class -> how it is built; a subclass is built as the class it derives from
_TOWERS = {
    "timm.models.vision_transformer.VisionTransformer": TowerSpec(
        embedding="patch_embed",
        grid=_timm_grid,
        num_prefix=lambda model: model.num_prefix_tokens,
        layers="blocks",
        attention=(Attention(name="timm.layers.attention.Attention", attach=_attach_timm),),
        check=_check_timm,
    ),
    "transformers.models.vit.modeling_vit.ViTModel": _transformers_row("vit", "ViT", "layers"),
    "transformers.models.deit.modeling_deit.DeiTModel": _transformers_row("deit", "DeiT", "layers", lambda _: 2),
    "transformers.models.clip.modeling_clip.CLIPVisionModel": _transformers_row("clip", "CLIP", "encoder.layers"),
    f"{_DINOV2_MODULE}.Dinov2Model": _DINOV2,
    f"{_DINOV2_MODULE}.Dinov2Backbone": _DINOV2,
    f"{_REGISTERS_MODULE}.Dinov2WithRegistersModel": _DINOV2_REGISTERS,
    f"{_REGISTERS_MODULE}.Dinov2WithRegistersBackbone": _DINOV2_REGISTERS,
    "torchvision.models.vision_transformer.VisionTransformer": TowerSpec(
        embedding="conv_proj",
        grid=_output_grid,
        num_prefix=lambda _: 1,
        layers="encoder.layers",
        attention=(PACKED,),
    ),
    "open_clip.transformer.VisionTransformer": TowerSpec(
        embedding="conv1",
        grid=_output_grid,
        num_prefix=lambda _: 1,
        layers="transformer.resblocks",
        attention=(
            PACKED,
            Attention(name="open_clip.transformer.Attention", attach=_attach_open_clip, check=_check_cosine),
        ),
        check=_check_open_clip,
    ),
}

#: What the table says, for people.
SUPPORTED = (
    "the VisionTransformer of timm (vit_*, deit*), of torchvision and of open_clip, and transformers' ViT, DeiT, CLIP "
    "vision and DINOv2, also inside other models"
)


def ancestry(value: object) -> list[str]:
    """Name the classes of an object, its own first."""
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(value).__mro__]


def find_tower(module: nn.Module) -> TowerSpec | None:
    """Look up how a module is built, if it is a vision transformer that is known."""
    return next((_TOWERS[name] for name in ancestry(module) if name in _TOWERS), None)


def add_to_tower(model: nn.Module, tower: TowerSpec, make: MakeRope) -> None:
    """Add rotation to all layers of a vision transformer that `attention_layers` has looked at."""
    layers = attention_layers(model, tower)
    grid = CurrentGrid(tower.num_prefix(model))
    for block, inside in zip(model.get_submodule(tower.layers).children(), layers, strict=True):
        for name, attention in inside.items():
            attention.attach(block, name, make, grid)
    model.get_submodule(tower.embedding).register_forward_hook(partial(_tell_grid, grid, tower.grid))


def attention_layers(model: nn.Module, tower: TowerSpec) -> list[dict[str, Attention]]:
    """Name the attention layers of each block, and say how rotation gets into each.

    Raises:
        ValueError: If a block has none that is known, or the model cannot be retrofitted for another reason.
    """
    check_model(model, tower)
    known = {attention.name: attention for attention in tower.attention}
    found = []
    for block in model.get_submodule(tower.layers).children():
        inside = {name: known[kind] for name, part in block.named_modules() if (kind := ancestry(part)[0]) in known}
        if not inside:
            wanted = " or ".join(name.split(".")[-1] for name in known)
            raise ValueError(
                f"got a {type(model).__name__} with blocks of {type(block).__name__}, whose attention is not {wanted}; "
                f"add_rope supports {SUPPORTED}"
            )
        for name, attention in inside.items():
            attention.check(block.get_submodule(name))
            pairs_per_axis(block.get_submodule(name).head_dim)  # pyright: ignore[reportArgumentType]
        found.append(inside)
    return found


def check_model(model: nn.Module, tower: TowerSpec) -> None:
    """Refuse a model of a class that is known, but built otherwise."""
    for path in (tower.embedding, tower.layers):
        try:
            model.get_submodule(path)
        except AttributeError as error:
            raise ValueError(
                f"got a {type(model).__name__} without {path}, of another version of its library than docs/retrofit.md "
                "names; install one of those"
            ) from error
    trouble = tower.check(model)
    if trouble:
        raise ValueError(f"got a {type(model).__name__} with {trouble}; add_rope needs all patches")


def _tell_grid(
    grid: CurrentGrid,
    read: Callable[[nn.Module, Tensor, Tensor], tuple[int, int]],
    module: nn.Module,
    args: tuple[Tensor, ...],
    output: Tensor,
) -> None:
    """Remember the grid of the images that a patch embedding has just been given; a forward hook of it."""
    grid.remember(*read(module, args[0], output))
