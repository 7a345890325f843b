"""Every model by name: one row a model."""

from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from ropevit.models.architectures import Config
from ropevit.models.config import as_pair
from ropevit.models.positions import SWIN_EMBEDDINGS, VIT_EMBEDDINGS
from ropevit.models.swin import SwinConfig
from ropevit.models.vit import ViTConfig

#: How the published names spell the position embedding; "none" and the tiny size are ours, for tests and studies.
VIT_NAMES = {
    "none": "none_deit_{size}_patch16_LS",
    "ape": "deit_{size}_patch16_LS",
    "rope_axial": "rope_axial_deit_{size}_patch16_LS",
    "rope_mixed": "rope_mixed_deit_{size}_patch16_LS",
    "rope_axial_ape": "rope_axial_ape_deit_{size}_patch16_LS",
    "rope_mixed_ape": "rope_mixed_ape_deit_{size}_patch16_LS",
}

#: size -> (width, depth, heads)
VIT_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}

#: The same for Swin; "rpb" is its own relative position bias.
SWIN_NAMES = {
    "rpb": "swin_{size}_patch4_window7_224",
    "rope_axial": "swin_rope_axial_{size}_patch4_window7_224",
    "rope_mixed": "swin_rope_mixed_{size}_patch4_window7_224",
    "rope_axial_rpb": "swin_rope_axial_rpb_{size}_patch4_window7_224",
    "rope_mixed_rpb": "swin_rope_mixed_rpb_{size}_patch4_window7_224",
}

#: size -> (width of the first stage, depths, heads)
SWIN_SIZES = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}

#: family -> how its names spell the position embedding, and which size it is
VARIANTS = {f"deit_{size}": (VIT_NAMES, size) for size in VIT_SIZES} | {
    f"swin_{size}": (SWIN_NAMES, size) for size in SWIN_SIZES
}

MODELS: dict[str, Config] = {
    name.format(size=size): ViTConfig(position=position, width=width, depth=depth, heads=heads)
    for size, (width, depth, heads) in VIT_SIZES.items()
    for position, name in VIT_NAMES.items()
} | {
    name.format(size=size): SwinConfig(position=position, width=width, depths=depths, heads=heads)
    for size, (width, depths, heads) in SWIN_SIZES.items()
    for position, name in SWIN_NAMES.items()
}

#: Names whose weights are on the hub, as naver-ai/<name>.
PUBLISHED = frozenset(
    name.format(size=size)
    for size in ("small", "base", "large")
    for position, name in VIT_NAMES.items()
    if position != "none"
) | frozenset(
    SWIN_NAMES[position].format(size=size) for size in SWIN_SIZES for position in ("rope_axial", "rope_mixed")
)


def model_name(family: str, position: str) -> str:
    """Give the name of the model of a family with a position embedding.

    Args:
        family: Architecture and size, such as "deit_small".
        position: Name of the position embedding.

    Returns:
        A name of `MODELS`, or for position embeddings whose models have no names one spelled like them; see
        `variant_config`.

    Raises:
        ValueError: If there is no such family, or it has no such position embedding.
    """
    if family not in VARIANTS:
        raise unknown_model(family)
    names, size = VARIANTS[family]
    embeddings = VIT_EMBEDDINGS if names is VIT_NAMES else SWIN_EMBEDDINGS
    if position not in embeddings:
        raise ValueError(f"got position {position!r} for {family}; choose one of {', '.join(embeddings)}")
    if position in names:
        return names[position].format(size=size)
    return names["rope_axial"].format(size=size).replace("rope_axial", position)


def nearest_name(family: str, position: str) -> str:
    """Name a model of `MODELS` that differs from the asked one in the position embedding at most.

    Args:
        family: Architecture and size, such as "deit_small".
        position: Name of the position embedding, also one whose models have no names.

    Raises:
        ValueError: As `model_name`.
    """
    name = model_name(family, position)
    return name if name in MODELS else model_name(family, "rope_axial")


def variant_config(family: str, position: str, **changes: object) -> Config:
    """Return the config of the model of a family with any position embedding, with some fields changed.

    Args:
        family: Architecture and size, such as "deit_small".
        position: Name of the position embedding, also one of the newer families, whose models have no names.
        changes: As `get_config` takes them.

    Raises:
        ValueError: If there is no such family, position embedding or field.
    """
    return get_config(nearest_name(family, position), position=position, **changes)


def resolve_name(name: str) -> str:
    """Return the name in `MODELS` of a model given by name or variant.

    >>> resolve_name("deit_small")
    'deit_small_patch16_LS'

    Args:
        name: A name that `list_models` lists, or a variant (architecture and size, such as "deit_small"), which stands
            for the model with its original position embedding: APE of a ViT, relative position bias of a Swin.

    Raises:
        ValueError: If there is no such model.
    """
    if name in VARIANTS:
        names, size = VARIANTS[name]
        return names["ape" if "ape" in names else "rpb"].format(size=size)
    if name not in MODELS:
        raise unknown_model(name)
    return name


def split_name(name: str) -> tuple[str, str]:
    """Return variant and position embedding of a model in `MODELS`, such as "deit_small" and "rope_mixed".

    Raises:
        ValueError: If there is no such model.
    """
    for variant, (names, size) in VARIANTS.items():
        for position, pattern in names.items():
            if pattern.format(size=size) == name:
                return variant, position
    raise unknown_model(name)


def unknown_model(name: str) -> ValueError:
    """Return the error for an unknown name of a model, with the nearest names."""
    near = get_close_matches(name, [*VARIANTS, *MODELS], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "see ropevit.list_models() or `ropevit models`"
    return ValueError(f"no model named {name!r}; {hint}")


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """List model names.

    Args:
        pattern: Shell-style pattern, such as "rope_mixed*".
        pretrained: Only those with published weights.

    Returns:
        Matching names in the registry's order; empty if none matches.
    """
    return [name for name in MODELS if fnmatchcase(name, pattern) and (name in PUBLISHED or not pretrained)]


def get_config(name: str, **changes: object) -> Config:
    """Return the config of a named model, with some fields changed.

    Args:
        name: A name that `list_models` lists, or a variant; see `resolve_name`.
        changes: Fields of the config to replace, such as num_classes=10 or img_size=384 (a square) or (384, 512).
            With a Swin, img_size sets windows of 1/32 of it, as the paper evaluates; window_size overrides that.

    Raises:
        ValueError: If there is no such model or field.
    """
    config = MODELS[resolve_name(name)]
    unknown = sorted(set(changes) - set(vars(config)))
    if unknown:
        raise ValueError(f"no option named {', '.join(unknown)} for {name}; choose among {', '.join(vars(config))}")
    if "img_size" in changes:
        changes["img_size"] = size = as_pair(changes["img_size"])  # pyright: ignore[reportArgumentType]
        if isinstance(config, SwinConfig):
            changes.setdefault("window_size", paper_window(*size))
    return replace(config, **changes)  # pyright: ignore[reportArgumentType]


def paper_window(height: int, width: int) -> int:
    """Give the window, in tokens, with which the paper evaluates a Swin: 1/32 of the (smaller) side, rounded up."""
    return -(-min(height, width) // 32)
