"""Model registry: configs by name, and model names by size and position embedding."""

from dataclasses import replace
from fnmatch import fnmatchcase

from ropevit.models.architectures import ARCHITECTURES, MODELS, PUBLISHED, VARIANTS, Config
from ropevit.models.config import Variant, as_pair
from ropevit.models.position_options import split_options, with_options
from ropevit.plugins import load_plugins
from ropevit.rope import RopeConvention
from ropevit.text import suggest


def model_name(variant: str, position: str) -> str:
    """Return the name of the model of a variant with a position embedding.

    Args:
        variant: Architecture and size, such as "deit_small".
        position: Name of the position embedding.

    Returns:
        A name of `MODELS`, or for position embeddings without named models one spelled alike; see `variant_config`.

    Raises:
        ValueError: If the variant is unknown, or does not have the position embedding.
    """
    position, _ = split_options(position)
    if variant not in VARIANTS:
        raise _unknown_model(variant)
    name, found = VARIANTS[variant]
    embeddings = ARCHITECTURES[name].config.embeddings
    if position not in embeddings:
        hint = suggest(position, embeddings, f"choose one of {', '.join(embeddings)}")
        raise ValueError(f"got position {position!r} for {variant}; {hint}")
    if position in found.names:
        return found.names[position]
    named, model = nearest(found)
    return model.replace(named, position) if named in model else f"{model}_{position}"


def nearest(variant: Variant) -> tuple[str, str]:
    """Return the position embedding and name of the model that stands in for unnamed ones: RoPE-Axial."""
    position = "rope_axial" if "rope_axial" in variant.names else variant.original
    return position, variant.names[position]


def nearest_name(variant: str, position: str) -> str:
    """Return the name of a model of `MODELS` that equals the requested one up to the position embedding.

    Args:
        variant: Architecture and size, such as "deit_small".
        position: Name of the position embedding, which need not have named models.

    Raises:
        ValueError: If the variant is unknown, or does not have the position embedding.
    """
    name = model_name(variant, position)
    return name if name in MODELS else nearest(VARIANTS[variant][1])[1]


def variant_config(variant: str, position: str, **changes: object) -> Config:
    """Return the config of the model of a variant with any position embedding, with some fields changed.

    Args:
        variant: Architecture and size, such as "deit_small".
        position: Name of the position embedding, which need not have named models.
        changes: Config fields to replace, as in `get_config`.

    Raises:
        ValueError: If the variant, position embedding or a field is unknown.
    """
    name = nearest_name(variant, position)
    if MODELS[name].position != position and hasattr(MODELS[name], "rope_convention"):
        changes = {
            "rope_convention": RopeConvention(),
            "rope_theta": None,
            "embed_prefix": False,
            **changes,
        }  # that of a family belongs to its own rotation
    return get_config(name, position=position, **changes)


def resolve_name(name: str) -> str:
    """Return the name in `MODELS` of a model given by name or variant.

    >>> resolve_name("deit_small")
    'deit_small_patch16_LS'

    Args:
        name: A name that `list_models` lists, or a variant (architecture and size, such as "deit_small"), which stands
            for the model with its original position embedding: APE of a ViT, relative position bias of a Swin.

    Raises:
        ValueError: If the model is unknown.
    """
    load_plugins()
    if name in VARIANTS:
        _, variant = VARIANTS[name]
        return variant.names[variant.original]
    if name not in MODELS:
        raise _unknown_model(name)
    return name


def split_model_name(name: str) -> tuple[str, str]:
    """Return variant and position embedding of a model in `MODELS`, such as "deit_small" and "rope_mixed".

    Raises:
        ValueError: If the model is unknown.
    """
    for variant_name, (_, variant) in VARIANTS.items():
        for position, model in variant.names.items():
            if model == name:
                return variant_name, position
    raise _unknown_model(name)


def _unknown_model(name: str) -> ValueError:
    """Return the error for an unknown name of a model: why it is not built, its name here, or the nearest names."""
    for row in ARCHITECTURES.values():
        why = next((why for pattern, why in row.unsupported.items() if fnmatchcase(name, pattern)), None)
        if why is not None:
            return ValueError(f"got {name!r}, a model that is not built here: {why}; see docs/pretrained.md")
        if name in row.weights.aliases:
            return ValueError(f"no model named {name!r}; it is {row.weights.aliases[name]!r} here")
    hint = suggest(name, [*VARIANTS, *MODELS], "see ropevit.list_models() or `ropevit models`")
    return ValueError(f"no model named {name!r}; {hint}")


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """List model names.

    Args:
        pattern: Shell-style pattern, such as "rope_mixed*"; or, if no name matches, one of variants, such as
            "deit_small" or "dinov3_vits16*" (the names of DINOv3's authors).
        pretrained: Only those with published weights.

    Returns:
        Matching names in the registry's order; empty if none matches.
    """
    load_plugins()
    names = [name for name in MODELS if fnmatchcase(name, pattern)]
    if not names:
        variants = [variant for name, (_, variant) in VARIANTS.items() if fnmatchcase(name, pattern)]
        names = [name for variant in variants for name in variant.names.values()]
    return [name for name in names if name in PUBLISHED or not pretrained]


def weights_license(name: str) -> str | None:
    """Return the license of the published weights of a model in `MODELS`; None if there are none."""
    return VARIANTS[split_model_name(name)[0]][1].license if name in PUBLISHED else None


#: timm's name of an option -> the field of our configs.
TIMM_OPTIONS = {
    "in_chans": "in_channels",
    "drop_path_rate": "drop_path",
    "embed_dim": "width",
    "num_heads": "heads",
    "init_values": "layer_scale",
    "reg_tokens": "num_registers",
    "rope_temperature": "rope_theta",
    "global_pool": "pooling",
}


def get_config(name: str, **changes: object) -> Config:
    """Return the config of a named model, with some fields changed.

    Args:
        name: A name that `list_models` lists, or a variant; see `resolve_name`.
        changes: Fields of the config to replace, such as num_classes=10 or img_size=384 (a square) or (384, 512). The
            position may have options, such as rope_axial:theta=10,rest=0.25. timm's names of options are read, too:
            in_chans, drop_path_rate, global_pool, init_values, reg_tokens, embed_dim, num_heads, rope_temperature.
            With a Swin, img_size sets windows of 1/32 of it, as the paper evaluates; window_size overrides that.

    Raises:
        ValueError: If the model or a field is unknown, or a field is given by both of its names.
    """
    config = MODELS[resolve_name(name)]
    for theirs, field in TIMM_OPTIONS.items():
        if theirs in changes and field in vars(config):
            if field in changes:
                raise ValueError(f"got {field} and {theirs}, which are the same option; leave one out")
            changes[field] = changes.pop(theirs)
    unknown = sorted(set(changes) - set(vars(config)))
    if unknown:
        raise ValueError(f"no option named {', '.join(unknown)} for {name}; choose among {', '.join(vars(config))}")
    if "img_size" in changes:
        changes["img_size"] = size = as_pair(changes["img_size"])  # pyright: ignore[reportArgumentType]
        if config.windowed:
            changes.setdefault("window_size", config.at_size(size).attention_grid[0])
    position, options = split_options(str(changes.get("position", config.position)))
    return with_options(replace(config, **changes | {"position": position}), options)  # pyright: ignore[reportArgumentType]
