"""ViT variants and the names of their models."""

from ropevit.models.config import Variant

#: How the published names spell the position embedding; "none" and the tiny size are ours, for tests and studies.
NAMES = {
    "none": "none_deit_{size}_patch16_LS",
    "ape": "deit_{size}_patch16_LS",
    "rope_axial": "rope_axial_deit_{size}_patch16_LS",
    "rope_mixed": "rope_mixed_deit_{size}_patch16_LS",
    "rope_axial_ape": "rope_axial_ape_deit_{size}_patch16_LS",
    "rope_mixed_ape": "rope_mixed_ape_deit_{size}_patch16_LS",
}

#: size -> (width, depth, heads)
SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}

VARIANTS = {
    f"deit_{size}": Variant(
        fields={"width": width, "depth": depth, "heads": heads},
        names={position: name.format(size=size) for position, name in NAMES.items()},
        original="ape",
        hub="naver-ai",
        license="bsd-3-clause",  # from their model cards
        published=() if size == "tiny" else tuple(position for position in NAMES if position != "none"),
    )
    for size, (width, depth, heads) in SIZES.items()
}

#: How timm spells the position embedding in vit_<size>_patch16_<...>_224.
_TIMM_POSITIONS = {
    "rope": "rope_axial",
    "rope_mixed": "rope_mixed",
    "rope_ape": "rope_axial_ape",
    "rope_mixed_ape": "rope_mixed_ape",
}

#: timm's name -> ours, for the published models that both have.
TIMM_NAMES = {
    f"vit_{size}_patch16_{theirs}_224": NAMES[position].format(size=size)
    for size in ("small", "base", "large")
    for theirs, position in _TIMM_POSITIONS.items()
}
