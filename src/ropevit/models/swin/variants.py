"""Swin variants and the names of their models."""

from ropevit.models.config import Variant

#: How the published names spell the position embedding; "rpb" is Swin's own relative position bias.
NAMES = {
    "rpb": "swin_{size}_patch4_window7_224",
    "rope_axial": "swin_rope_axial_{size}_patch4_window7_224",
    "rope_mixed": "swin_rope_mixed_{size}_patch4_window7_224",
    "rope_axial_rpb": "swin_rope_axial_rpb_{size}_patch4_window7_224",
    "rope_mixed_rpb": "swin_rope_mixed_rpb_{size}_patch4_window7_224",
}

#: size -> (width of the first stage, depths, heads)
SIZES = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
}

VARIANTS = {
    f"swin_{size}": Variant(
        fields={"width": width, "depths": depths, "heads": heads},
        names={position: name.format(size=size) for position, name in NAMES.items()},
        original="rpb",
        hub="naver-ai",
        license="bsd-3-clause",  # from their model cards
        published=("rope_axial", "rope_mixed"),
    )
    for size, (width, depths, heads) in SIZES.items()
}
