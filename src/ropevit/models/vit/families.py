"""Sizes of the families of other authors, and the names of their models: those of timm."""

from ropevit.models.config import Variant
from ropevit.rope import ROPE_FAMILIES

#: timm's size -> (authors' name, width, depth, heads, hidden channels of the MLP over the width, kind of MLP, whether
#: the authors' file has biases of queries and values).
_DINOV3_SIZES = {
    "small": ("vits16", 384, 12, 6, 4.0, "gelu", True),
    "small_plus": ("vits16plus", 384, 12, 6, 4.0, "swiglu", True),
    "base": ("vitb16", 768, 12, 12, 4.0, "gelu", True),
    "large": ("vitl16", 1024, 24, 16, 4.0, "gelu", True),
    "huge_plus": ("vith16plus", 1280, 32, 20, 4.0, "swiglu", True),
    "7b": ("vit7b16", 4096, 40, 32, 2.0, "swiglu", False),
}


def _dinov3_variants() -> dict[str, Variant]:
    """Return the variants of DINOv3: the authors' names, and those of timm's models without biases."""
    variants = {}
    for size, (authors, width, depth, heads, mlp_ratio, mlp, biased) in _DINOV3_SIZES.items():
        fields = {
            "width": width,
            "depth": depth,
            "heads": heads,
            "mlp_ratio": mlp_ratio,
            "mlp": mlp,
            "norm_eps": 1e-5,
            "num_registers": 4,
            "layer_scale": 1e-5,
            "rope_convention": ROPE_FAMILIES["dinov3"].convention,
            "img_size": (256, 256),
            "num_classes": 0,
        }
        name = f"vit_{size}_patch16_dinov3"
        kinds = {f"dinov3_{authors}": (f"{name}_qkvb", {"key_bias": False})} if biased else {}
        plain = f"dinov3_{authors}_no_bias" if biased else f"dinov3_{authors}"
        for variant, (model, biases) in (kinds | {plain: (name, {"qkv_bias": False})}).items():
            variants[variant] = Variant(fields=fields | biases, names={"rope_axial": model}, original="rope_axial")
    return variants


FAMILY_VARIANTS: dict[str, Variant] = _dinov3_variants()
