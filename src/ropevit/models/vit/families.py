"""Sizes of the families of other authors, and the names of their models: those of timm."""

from dataclasses import replace
from typing import Any

from ropevit.models.config import Preprocessing, Variant
from ropevit.rope import ROPE_FAMILIES

#: Pixels of CLIP's training images. Source: Radford et al. 2021 (arXiv:2103.00020), as released.
_CLIP = Preprocessing((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
#: Pixels from -1 to 1. Source: Szegedy et al. 2015 (arXiv:1512.00567), as released.
_INCEPTION = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
#: Of DINOv3's weights that were trained on satellite images.
#: Source: Siméoni et al. 2025 (arXiv:2508.10104), as released.
_SATELLITE = {"sat493m": Preprocessing((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))}


def _weights(position: str, tag: str, license_name: str, hub: str = "timm") -> dict[str, Any]:
    """Return the fields of a `Variant` for its weights on the hub: copies in timm's layout, with their license."""
    return {"published": (position,), "hub": hub, "tag": tag, "license": license_name}


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
            variants[variant] = Variant(
                fields=fields | biases,
                names={"rope_axial": model},
                original="rope_axial",
                **_weights("rope_axial", "lvd1689m", "dinov3-license"),
                other_preprocessing=_SATELLITE,
            )
    return variants | {"eupe_vitt16": _eupe_variant(variants["dinov3_vits16"])}


def _eupe_variant(small: Variant) -> Variant:
    """Return the variant of EUPE's smallest model, a DINOv3 of other authors; its S and B have the names of DINOv3's.

    Source: Zhu et al. 2026 (arXiv:2603.22387).
    """
    return small._replace(
        fields={**small.fields, "width": 192, "heads": 3},
        names={"rope_axial": "vit_tiny_patch16_dinov3_qkvb"},
        tag="eupe_lvd1689m",
        license="fair-noncommercial-research-license",
    )


#: Size -> (width, depth, heads, kind of MLP), its image sizes (of the pre-trained model, and of the classifier), and
#: whether images of the latter are squashed.
_EVA02_SIZES = {
    "tiny": ((192, 12, 3, "swiglu"), 224, 336, False),
    "small": ((384, 12, 6, "swiglu"), 224, 336, False),
    "base": ((768, 12, 12, "swiglu_norm"), 224, 448, True),
    "large": ((1024, 24, 16, "swiglu_norm"), 224, 448, True),
}

#: Image size -> tag of the weights: pre-trained, or fine-tuned for ImageNet-1k.
_EVA02_TAGS = {224: "mim_in22k", 336: "mim_in22k_ft_in1k", 448: "mim_in22k_ft_in22k_in1k"}

#: Parts of names of weights that were fine-tuned for ImageNet-1k at once, whose images are not squashed: of timm's
#: tags, and of the authors' files.
_EVA02_UNSQUASHED = ("mim_in22k_ft_in1k", "mim_m38m_ft_in1k", "pt_in21k_ft_in1k", "pt_m38m_ft_in1k")

#: timm's name -> (width, depth, heads), patch, image size, channels of the image embedding, crop ratio.
_EVA02_CLIP_SIZES = {
    "base_patch16_clip_224": ((768, 12, 12), 16, 224, 512, 0.9),
    "large_patch14_clip_224": ((1024, 24, 16), 14, 224, 768, 0.9),
    "large_patch14_clip_336": ((1024, 24, 16), 14, 336, 768, 1.0),
}

#: timm's size -> (width, depth, heads, register tokens, whether queries and values have biases), and its pixels.
_TIMM_ROPE_SIZES = {
    "medium": ((512, 12, 8, 1, True), _INCEPTION),
    "mediumd": ((512, 20, 8, 1, False), _INCEPTION),
    "betwixt": ((640, 12, 10, 4, True), _CLIP),
    "base": ((768, 12, 12, 1, True), _INCEPTION),
}


def _eva02_variants() -> dict[str, Variant]:
    """Return the variants of EVA-02: at 224 pixels without a head, at the larger size for ImageNet-1k."""
    variants = {}
    for size, ((width, depth, heads, mlp), small, large, squashed) in _EVA02_SIZES.items():
        whole = _CLIP._replace(crop=1.0)
        of_size = (small, 0, _CLIP._replace(crop=0.9)), (large, 1000, whole._replace(squash=squashed))
        for side, classes, preprocessing in of_size:
            fields = {"width": width, "depth": depth, "heads": heads, "patch_size": 14, "img_size": (side, side)}
            fields |= {
                "mlp": mlp,
                "mlp_ratio": 8 / 3,
                "layer_scale": None,
                "num_classes": classes,
                "embed_prefix": True,
            }
            fields |= _pooled_rotation("eva02", biased=True)
            variants[f"eva02_{size}_{side}"] = Variant(
                fields=fields,
                names={"rope_axial_ape": f"eva02_{size}_patch14_{side}"},
                original="rope_axial_ape",
                **_weights("rope_axial_ape", _EVA02_TAGS[side], "mit"),
                preprocessing=preprocessing,
                other_preprocessing=dict.fromkeys(_EVA02_UNSQUASHED, whole),
            )
    return variants


def _eva02_clip_variants() -> dict[str, Variant]:
    """Return the variants of EVA-02's CLIP towers, whose head gives the image embedding."""
    variants = {}
    for size, ((width, depth, heads), patch, side, channels, crop) in _EVA02_CLIP_SIZES.items():
        found = ROPE_FAMILIES["eva02"]
        fields = {"width": width, "depth": depth, "heads": heads, "patch_size": patch, "img_size": (side, side)}
        fields |= {"mlp": "swiglu_norm", "mlp_ratio": 8 / 3, "layer_scale": None, "num_classes": channels}
        fields |= {"embed_prefix": True, "attn_norm": True, "key_bias": False}
        fields |= {"rope_convention": found.convention, "rope_theta": found.theta}
        variants[f"eva02_{size.replace(f'_patch{patch}', '')}"] = Variant(
            fields=fields,
            names={"rope_axial_ape": f"eva02_{size}"},
            original="rope_axial_ape",
            **_weights("rope_axial_ape", "merged2b", "mit"),
            preprocessing=_CLIP._replace(crop=crop),
        )
    return variants


def _timm_rope_variants() -> dict[str, Variant]:
    """Return the variants of the ViTs with rotation that timm trained."""
    variants = {}
    for size, ((width, depth, heads, registers, biased), pixels) in _TIMM_ROPE_SIZES.items():
        fields = {"width": width, "depth": depth, "heads": heads, "num_registers": registers, "img_size": (256, 256)}
        fields |= {"class_token": False, "layer_scale": 1e-5} | _pooled_rotation("timm_rope", biased)
        variants[f"vit_{size}_rope_reg{registers}"] = Variant(
            fields=fields,
            names={"rope_axial": f"vit_{size}_patch16_rope_reg{registers}_gap_256"},
            original="rope_axial",
            **_weights("rope_axial", "sbb_in1k", "mit"),
            preprocessing=pixels._replace(crop=0.95),
        )
    return variants


def _pooled_rotation(family: str, biased: bool) -> dict[str, object]:
    """Return the fields that EVA-02 shares with timm's ViTs: rotation, biases, and a norm of the mean patch."""
    found = ROPE_FAMILIES[family]
    biases = {"key_bias": False} if biased else {"qkv_bias": False}
    rotation = {"rope_convention": found.convention, "rope_theta": found.theta}
    return rotation | biases | {"pooling": "avg", "pooled_norm": True}


#: Size -> (width, depth, heads, hidden channels over the width), patch, image size, channels of the output.
_PE_CORE_SIZES = {
    "tiny": ((192, 12, 3, 4.0), 16, 384, 512),
    "small": ((384, 12, 6, 4.0), 16, 384, 512),
    "base": ((768, 12, 12, 4.0), 16, 224, 1024),
    "large": ((1024, 24, 16, 4.0), 14, 336, 1024),
    "gigantic": ((1536, 50, 16, 8960 / 1536), 14, 448, 1280),
}


#: Kind -> size -> (width, depth, heads, hidden channels over the width), patch, image size, whether it has LayerScale.
_PE_OTHER_SIZES = {
    "lang": {
        "large": ((1024, 23, 16, 4.0), 14, 448, True),
        "gigantic": ((1536, 47, 16, 8960 / 1536), 14, 448, True),
    },
    "spatial": {
        "tiny": ((192, 12, 3, 4.0), 16, 512, False),
        "small": ((384, 12, 6, 4.0), 16, 512, False),
        "base": ((768, 12, 12, 4.0), 16, 512, False),
        "large": ((1024, 24, 16, 4.0), 14, 448, False),
        "gigantic": ((1536, 50, 16, 8960 / 1536), 14, 448, True),
    },
}


def _pe_variants() -> dict[str, Variant]:
    """Return the variants of Perception Encoder: core, whose head gives the image embedding; lang and spatial."""
    variants = {}
    for size, (shape, patch, side, channels) in _PE_CORE_SIZES.items():
        fields = {"pooling": "map", "num_classes": channels, "layer_scale": None}
        variants[f"pe_core_{size}"] = _pe_variant("core", size, patch, side, shape, fields)
    for kind, sizes in _PE_OTHER_SIZES.items():
        for size, (shape, patch, side, scaled) in sizes.items():
            fields = {"pooling": "avg", "final_norm": False, "num_classes": 0, "layer_scale": 0.1 if scaled else None}
            variants[f"pe_{kind}_{size}"] = _pe_variant(kind, size, patch, side, shape, fields)
    return variants


def _pe_variant(
    kind: str, size: str, patch: int, side: int, shape: tuple[int, int, int, float], others: dict[str, Any]
) -> Variant:
    """Return a variant of Perception Encoder; G has no class token.

    Args:
        kind: core, lang or spatial.
        size: Size in timm's name.
        patch: Side of a patch in pixels.
        side: Side of an image in pixels.
        shape: Width, depth, heads, and hidden channels of the MLP over the width.
        others: Other fields of the config.
    """
    family, has_class, grid = ROPE_FAMILIES["pe"], size != "gigantic", (side // patch, side // patch)
    convention = replace(family.convention, reference_grid=grid, offset=1.0 if has_class else 0.0)
    fields = dict(zip(("width", "depth", "heads", "mlp_ratio"), shape, strict=True)) | {
        "patch_size": patch,
        "img_size": (side, side),
        "norm_eps": 1e-5,
        "class_token": has_class,
        "embed_prefix": has_class,
        "pre_norm": True,
        "rope_convention": convention,
        "rope_theta": family.theta,
    }
    return Variant(
        fields=fields | others,
        names={"rope_axial_ape": f"vit_pe_{kind}_{size}_patch{patch}_{side}"},
        original="rope_axial_ape",
        **_weights("rope_axial_ape", "fb", "apache-2.0"),
        preprocessing=_INCEPTION,
    )


FAMILY_VARIANTS: dict[str, Variant] = (
    _dinov3_variants() | _eva02_variants() | _eva02_clip_variants() | _timm_rope_variants() | _pe_variants()
)

_PE_LETTERS = {"tiny": "T", "small": "S", "base": "B", "large": "L", "gigantic": "G"}
#: EVA-02's authors' name of a file -> timm's name of the model.
_EVA02_FILES = {
    "eva02_Ti_pt_in21k_p14": "eva02_tiny_patch14_224",
    "eva02_S_pt_in21k_p14": "eva02_small_patch14_224",
    "eva02_B_pt_in21k_p14": "eva02_base_patch14_224",
    "eva02_L_pt_in21k_p14": "eva02_large_patch14_224",
    "eva02_L_pt_m38m_p14": "eva02_large_patch14_224",
    "eva02_Ti_pt_in21k_ft_in1k_p14": "eva02_tiny_patch14_336",
    "eva02_S_pt_in21k_ft_in1k_p14": "eva02_small_patch14_336",
    "eva02_B_pt_in21k_ft_in1k_p14": "eva02_base_patch14_448",
    "eva02_L_pt_in21k_ft_in1k_p14": "eva02_large_patch14_448",
    "eva02_L_pt_m38m_ft_in1k_p14": "eva02_large_patch14_448",
    "eva02_B_pt_in21k_medft_in21k_p14": "eva02_base_patch14_448",
    "eva02_L_pt_in21k_medft_in21k_p14": "eva02_large_patch14_448",
    "eva02_L_pt_m38m_medft_in21k_p14": "eva02_large_patch14_448",
    "eva02_B_pt_in21k_medft_in21k_ft_in1k_p14": "eva02_base_patch14_448",
    "eva02_L_pt_in21k_medft_in21k_ft_in1k_p14": "eva02_large_patch14_448",
    "eva02_L_pt_m38m_medft_in21k_ft_in1k_p14": "eva02_large_patch14_448",
    "EVA02_CLIP_B_psz16_s8B": "eva02_base_patch16_clip_224",
    "EVA02_CLIP_L_psz14_s4B": "eva02_large_patch14_clip_224",
    "EVA02_CLIP_L_336_psz14_s6B": "eva02_large_patch14_clip_336",
}

#: Name of a file, or of a repository on the hub, of the authors of EVA-02 or Perception Encoder -> timm's of the model.
FILE_NAMES: dict[str, str] = _EVA02_FILES | {
    f"PE-{kind.capitalize()}-{_PE_LETTERS[size]}{patch}-{side}": f"vit_pe_{kind}_{size}_patch{patch}_{side}"
    for kind, sizes in {"core": _PE_CORE_SIZES, **_PE_OTHER_SIZES}.items()
    for size, (_, patch, side, _) in sizes.items()
}
#: The other weights of Perception Encoder lang, trained with tiles of images.
FILE_NAMES |= {f"{file}-Tiling": name for file, name in FILE_NAMES.items() if file.startswith("PE-Lang-")}
