"""Every model by name: one row a model."""

from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from ropevit.models.vit import ViTConfig, as_pair

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

MODELS: dict[str, ViTConfig] = {
    name.format(size=size): ViTConfig(position=position, width=width, depth=depth, heads=heads)
    for size, (width, depth, heads) in VIT_SIZES.items()
    for position, name in VIT_NAMES.items()
}

#: Names whose weights are on the hub, as naver-ai/<name>.
PUBLISHED = frozenset(
    name.format(size=size)
    for size in ("small", "base", "large")
    for position, name in VIT_NAMES.items()
    if position != "none"
)


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """List model names.

    Args:
        pattern: Shell-style pattern, such as "rope_mixed*".
        pretrained: Only those with published weights.

    Returns:
        Matching names in the registry's order; empty if none matches.
    """
    return [name for name in MODELS if fnmatchcase(name, pattern) and (name in PUBLISHED or not pretrained)]


def get_config(name: str, **changes: object) -> ViTConfig:
    """Return the config of a named model, with some fields changed.

    Args:
        name: A name that `list_models` lists.
        changes: Fields of the config to replace, such as num_classes=10 or img_size=384 (a square) or (384, 512).

    Raises:
        ValueError: If there is no such model or field.
    """
    if name not in MODELS:
        near = get_close_matches(name, MODELS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see ropevit.list_models() or `ropevit models`"
        raise ValueError(f"no model named {name!r}; {hint}")
    config = MODELS[name]
    unknown = sorted(set(changes) - set(vars(config)))
    if unknown:
        raise ValueError(f"no option named {', '.join(unknown)} for {name}; choose among {', '.join(vars(config))}")
    if "img_size" in changes:
        changes["img_size"] = as_pair(changes["img_size"])  # pyright: ignore[reportArgumentType]
    return replace(config, **changes)  # pyright: ignore[reportArgumentType]
