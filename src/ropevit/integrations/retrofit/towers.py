"""The table of vision transformers that `add_rope` supports, by class name, so that no other library is imported."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from ropevit.integrations.retrofit.attention import RetrofitRope, hook_attention
from ropevit.integrations.retrofit.grid import CurrentGrid
from ropevit.integrations.retrofit.multihead import RotaryMultiheadAttention, check_options
from ropevit.rope import pairs_per_axis

#: Builds the rotary embedding of a layer from its heads, channels per head and device.
RopeFactory = Callable[[int, int, Any], RetrofitRope]


@dataclass(frozen=True, kw_only=True)
class AttentionSpec:
    """One class of attention layers, and how to add RoPE to it."""

    name: str
    """Full name of the class."""
    attach: Callable[[Any, str, RopeFactory, CurrentGrid], None]
    """Adds RoPE to the attention layer with this name in a block."""
    check: Callable[[Any], None] = lambda _: None
    """Raises ValueError for a layer with unsupported options."""


@dataclass(frozen=True, kw_only=True)
class TowerSpec:
    """One class of vision transformers: where its patch embedding, blocks and attention layers are."""

    embedding: str
    """Path of the patch embedding."""
    grid: Callable[[nn.Module, Tensor, Tensor], tuple[int, int]]
    """Returns rows and columns of patches, given the patch embedding, its input and its output."""
    num_prefix_tokens: Callable[[Any], int]
    """Returns the number of tokens in front of the patches, given the model."""
    layers: str
    """Path of the list of blocks."""
    attention: tuple[AttentionSpec, ...]
    """Supported attention classes; each block must contain at least one of them."""
    check: Callable[[Any], str] = lambda _: ""
    """Returns the option for which a model cannot be retrofitted, and what to do; an empty string if there is none."""


def _output_grid(module: nn.Module, images: Tensor, maps: Tensor) -> tuple[int, int]:
    """Return the size of a convolution's output."""
    del module, images
    return maps.shape[-2], maps.shape[-1]


def _timm_grid(module: Any, images: Tensor, tokens: Tensor) -> tuple[int, int]:
    """Return the grid from timm's own method, since its patch embedding may pad."""
    del tokens
    return module.dynamic_feat_size((images.shape[-2], images.shape[-1]))


def _check_timm(model: Any) -> str:
    """Reject patch dropout: the positions of the remaining patches are not known."""
    dropout = not isinstance(model.patch_drop, nn.Identity)
    return "patch_drop_rate above 0; build it with patch_drop_rate=0" if dropout else ""


def _check_open_clip(model: Any) -> str:
    """Reject patch dropout: the positions of the remaining patches are not known."""
    dropout = not isinstance(model.patch_dropout, nn.Identity)
    return "patch_dropout above 0; build it with force_patch_dropout=0" if dropout else ""


def _check_cosine(attention: Any) -> None:
    """Reject open_clip's scaled cosine attention: its queries and keys bypass the hooked norms."""
    if attention.scaled_cosine:
        raise ValueError("got an Attention of open_clip with scaled_cosine=True; add_rope needs scaled_cosine=False")


def _attach_timm(block: Any, name: str, make_rope: RopeFactory, grid: CurrentGrid) -> None:
    """Rotate the outputs of q_norm and k_norm, which are identities in models without QK norm."""
    attention = block.get_submodule(name)
    rope = make_rope(attention.num_heads, attention.head_dim, attention.qkv.weight.device)
    hook_attention(attention, ("q_norm", "k_norm"), attention.num_heads, rope, grid)


def _attach_transformers(block: Any, name: str, make_rope: RopeFactory, grid: CurrentGrid) -> None:
    """Rotate the outputs of q_proj and k_proj; the attention implementation (sdpa, eager, ...) is not affected."""
    attention = block.get_submodule(name)
    heads = attention.q_proj.out_features // attention.head_dim
    rope = make_rope(heads, attention.head_dim, attention.q_proj.weight.device)
    hook_attention(attention, ("q_proj", "k_proj"), heads, rope, grid)


def _attach_open_clip(block: Any, name: str, make_rope: RopeFactory, grid: CurrentGrid) -> None:
    """Rotate the outputs of ln_q and ln_k, which are identities in models without QK norm."""
    attention = block.get_submodule(name)
    rope = make_rope(attention.num_heads, attention.head_dim, attention.in_proj_weight.device)
    hook_attention(attention, ("ln_q", "ln_k"), attention.num_heads, rope, grid)


def _replace_multihead(block: Any, name: str, make_rope: RopeFactory, grid: CurrentGrid) -> None:
    """Replace an `nn.MultiheadAttention` by a rotary layer with the same parameters."""
    attention = block.get_submodule(name)
    rope = make_rope(attention.num_heads, attention.head_dim, attention.in_proj_weight.device)
    block.set_submodule(name, RotaryMultiheadAttention(attention, rope, grid))


def _transformers_tower(
    package: str, prefix: str, layers: str, num_prefix_tokens: Callable[[Any], int] = lambda _: 1
) -> TowerSpec:
    """Return the row of a transformers model; these differ in few names."""
    return TowerSpec(
        embedding="embeddings.patch_embedding" if package == "clip" else "embeddings.patch_embeddings.projection",
        grid=_output_grid,
        num_prefix_tokens=num_prefix_tokens,
        layers=layers,
        attention=(
            AttentionSpec(
                name=f"transformers.models.{package}.modeling_{package}.{prefix}Attention", attach=_attach_transformers
            ),
        ),
    )


def _class_and_registers(model: Any) -> int:
    """Return the number of prefix tokens of a transformers model with a class token and registers."""
    return 1 + model.config.num_register_tokens


_MULTIHEAD = AttentionSpec(
    name="torch.nn.modules.activation.MultiheadAttention", attach=_replace_multihead, check=check_options
)
_DINOV2 = _transformers_tower("dinov2", "Dinov2", "encoder.layer")
_DINOV2_REGISTERS = _transformers_tower(
    "dinov2_with_registers", "Dinov2WithRegisters", "encoder.layer", _class_and_registers
)
_DINOV2_MODULE = "transformers.models.dinov2.modeling_dinov2"
_REGISTERS_MODULE = "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers"

#: class name -> its modules; a subclass takes the row of the class that it derives from
_TOWERS = {
    "timm.models.vision_transformer.VisionTransformer": TowerSpec(
        embedding="patch_embed",
        grid=_timm_grid,
        num_prefix_tokens=lambda model: model.num_prefix_tokens,
        layers="blocks",
        attention=(AttentionSpec(name="timm.layers.attention.Attention", attach=_attach_timm),),
        check=_check_timm,
    ),
    "transformers.models.vit.modeling_vit.ViTModel": _transformers_tower("vit", "ViT", "layers"),
    "transformers.models.deit.modeling_deit.DeiTModel": _transformers_tower("deit", "DeiT", "layers", lambda _: 2),
    "transformers.models.clip.modeling_clip.CLIPVisionModel": _transformers_tower("clip", "CLIP", "encoder.layers"),
    f"{_DINOV2_MODULE}.Dinov2Model": _DINOV2,
    f"{_DINOV2_MODULE}.Dinov2Backbone": _DINOV2,
    f"{_REGISTERS_MODULE}.Dinov2WithRegistersModel": _DINOV2_REGISTERS,
    f"{_REGISTERS_MODULE}.Dinov2WithRegistersBackbone": _DINOV2_REGISTERS,
    "torchvision.models.vision_transformer.VisionTransformer": TowerSpec(
        embedding="conv_proj",
        grid=_output_grid,
        num_prefix_tokens=lambda _: 1,
        layers="encoder.layers",
        attention=(_MULTIHEAD,),
    ),
    "open_clip.transformer.VisionTransformer": TowerSpec(
        embedding="conv1",
        grid=_output_grid,
        num_prefix_tokens=lambda _: 1,
        layers="transformer.resblocks",
        attention=(
            _MULTIHEAD,
            AttentionSpec(name="open_clip.transformer.Attention", attach=_attach_open_clip, check=_check_cosine),
        ),
        check=_check_open_clip,
    ),
}

#: The supported models, for messages.
SUPPORTED = (
    "the VisionTransformer of timm (vit_*, deit*), of torchvision and of open_clip, and transformers' ViT, DeiT, CLIP "
    "vision and DINOv2, also inside other models"
)


def class_names(value: object) -> list[str]:
    """Return the full names of an object's class and its base classes, its own first."""
    return [f"{base.__module__}.{base.__qualname__}" for base in type(value).__mro__]


def find_tower(module: nn.Module) -> TowerSpec | None:
    """Return the table row of a vision transformer; None if its class is not supported."""
    return next((_TOWERS[name] for name in class_names(module) if name in _TOWERS), None)


def add_to_tower(model: nn.Module, tower: TowerSpec, make_rope: RopeFactory) -> None:
    """Add RoPE to all attention layers of a vision transformer.

    Raises:
        ValueError: If `find_attention` does.
    """
    grid = CurrentGrid(tower.num_prefix_tokens(model))
    blocks = model.get_submodule(tower.layers).children()
    for block, layers in zip(blocks, find_attention(model, tower), strict=True):
        for name, attention in layers.items():
            attention.attach(block, name, make_rope, grid)
    model.get_submodule(tower.embedding).register_forward_hook(partial(_record_grid, grid, tower.grid))


def find_attention(model: nn.Module, tower: TowerSpec) -> list[dict[str, AttentionSpec]]:
    """Find the attention layers of each block, and check that RoPE can be added to them.

    Returns:
        One dict per block: name of the layer in the block -> its class in the table.

    Raises:
        ValueError: If a block has no supported attention, or an option of the model or of a layer is not supported.
    """
    _check_tower(model, tower)
    known = {attention.name: attention for attention in tower.attention}
    found = []
    for block in model.get_submodule(tower.layers).children():
        layers = {name: known[full] for name, part in block.named_modules() if (full := class_names(part)[0]) in known}
        if not layers:
            wanted = " or ".join(name.split(".")[-1] for name in known)
            raise ValueError(
                f"got a {type(model).__name__} with blocks of {type(block).__name__}, whose attention is not {wanted}; "
                f"add_rope supports {SUPPORTED}"
            )
        for name, attention in layers.items():
            attention.check(block.get_submodule(name))
            pairs_per_axis(block.get_submodule(name).head_dim)  # pyright: ignore[reportArgumentType]
        found.append(layers)
    return found


def _check_tower(model: nn.Module, tower: TowerSpec) -> None:
    """Raise ValueError for a model of a supported class with missing modules or unsupported options."""
    for path in (tower.embedding, tower.layers):
        try:
            model.get_submodule(path)
        except AttributeError as error:
            raise ValueError(
                f"got a {type(model).__name__} without {path}: its library has another version than those in "
                "docs/retrofit.md; install one of those"
            ) from error
    problem = tower.check(model)
    if problem:
        raise ValueError(f"got a {type(model).__name__} with {problem}; add_rope needs the positions of all patches")


def _record_grid(
    grid: CurrentGrid,
    read_grid: Callable[[nn.Module, Tensor, Tensor], tuple[int, int]],
    module: nn.Module,
    args: tuple[Tensor, ...],
    output: Tensor,
) -> None:
    """Forward hook of the patch embedding: record the patch grid of its input."""
    grid.remember(*read_grid(module, args[0], output))
