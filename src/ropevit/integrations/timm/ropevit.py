"""Registers the models of our registry with timm, which lists them under the name of this module."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ropevit.extras import require
from ropevit.integrations.timm.models import TimmModel, square_side
from ropevit.integrations.timm.pretrained import TAG, default_cfg, load_pretrained, read_source
from ropevit.integrations.timm.swin import TimmSwin
from ropevit.integrations.timm.vit import TimmViT
from ropevit.models.architectures import Model, architecture
from ropevit.models.registry import MODELS, PUBLISHED, TIMM_OPTIONS, get_config
from ropevit.rope import RopeConvention
from ropevit.text import join_names
from ropevit.weights.fields import lists_to_tuples

timm_models = require("timm.models", "train")

#: Architecture -> its timm class; only these architectures are registered with timm.
CLASSES: dict[str, type[TimmModel[Any]]] = {"vit": TimmViT, "swin": TimmSwin}

#: Prefix of our names in timm; the name without it is registered, too, unless timm has it already.
PREFIX = "ropevit_"

#: Names that timm gives to its own models: without the prefix they mean timm's.
CLASHES = frozenset(f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base"))

_DROPOUT = "these models have no dropout but before the head (drop_rate)"
#: Options of timm's scripts that can have only one value for our models, and why.
_FIXED_OPTIONS = {
    "attn_drop_rate": (0.0, _DROPOUT),
    "pos_drop_rate": (0.0, _DROPOUT),
    "patch_drop_rate": (0.0, _DROPOUT),
    "proj_drop_rate": (0.0, _DROPOUT),
    "dynamic_img_size": (True, "these models accept images of any size"),
    "strict_img_size": (False, "these models accept images of any size"),
}

#: Options that timm's `build_model_with_cfg` handles.
_BUILDER_OPTIONS = {"features_only", "out_indices", "feature_cls", "pretrained_model_args"}

#: How features can be taken: as maps (B, C, h, w), or as a hook on each block or stage finds them.
_FEATURE_CLASSES = "getter", "hook"


def create(
    variant: str,
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """Build a model; the function behind timm's entry points.

    Args:
        variant: The name under which it is registered.
        pretrained: Load weights: the published ones, or those to which `pretrained_cfg` points.
        pretrained_cfg: timm's `PretrainedCfg` of the model, or a tag; None takes the registered one.
        pretrained_cfg_overlay: Entries to replace in it, such as {"file": "model.safetensors"}.
        cache_dir: Cache folder for downloads from the hub; None takes the hub's own.
        options: num_classes, in_chans, img_size, drop_rate, drop_path_rate, global_pool and fields of the model's
            config; features_only and out_indices for a feature extractor; device and dtype.

    Raises:
        TypeError: If there is no such option.
        ValueError: If a value is out of range.
        WeightsError: If there are no such weights, or they do not match the model.
    """
    name = variant.removeprefix(PREFIX)
    check_options(variant, options)
    cfg = timm_models.resolve_pretrained_cfg(variant, pretrained_cfg, pretrained_cfg_overlay)
    load = None
    if pretrained:
        saved = options.get("pretrained_model_args") or {}  # arguments of a model that timm's save_for_hf saved
        classes = -1 if cfg.num_classes < 0 else options.get("num_classes")  # negative means a new head in timm
        checkpoint = read_source(name, cfg, cache_dir)
        load = partial(load_pretrained, checkpoint=checkpoint, num_classes=classes, img_size=saved.get("img_size"))
    build = partial(build_model, name, load)
    chosen = CLASSES[architecture(MODELS[name])].default_features(MODELS[name], options)
    features = {"feature_cls": "getter", "out_indices": chosen}
    return timm_models.build_model_with_cfg(
        build, variant, pretrained=False, pretrained_cfg=cfg, feature_cfg=features, **options
    )


def build_model(
    name: str,
    load: Callable[[Model], None] | None,
    *,
    global_pool: str | None = None,
    drop_rate: float = 0.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> TimmModel[Any]:
    """Build a model from options in timm's spelling, and load weights into it."""
    plain = lists_to_tuples({option: value for option, value in options.items() if option not in _FIXED_OPTIONS})
    if isinstance(plain.get("window_size"), tuple):
        plain["window_size"] = square_side("window_size", plain["window_size"])
    config = get_config(name, **plain)
    model = CLASSES[architecture(config)](config, global_pool, drop_rate)
    if load is not None:
        load(model)
    return model.to(device=device, dtype=dtype)


def check_options(variant: str, options: Mapping[str, Any]) -> None:
    """Check the options of a model.

    Raises:
        TypeError: For unknown ones, as Python does for arguments.
        ValueError: For values that our models do not support.
    """
    # fields spelt otherwise in timm, fixed by the name, or of video models
    hidden = {*TIMM_OPTIONS.values(), "position", "pooling", "frames", "tubelet", "pairs"}
    fields = set(vars(MODELS[variant.removeprefix(PREFIX)]))
    known = sorted((fields - hidden) | {theirs for theirs, ours in TIMM_OPTIONS.items() if ours in fields})
    unknown = sorted(
        set(options) - {*known, *_FIXED_OPTIONS, *_BUILDER_OPTIONS, "global_pool", "drop_rate", "device", "dtype"}
    )
    if unknown:
        raise TypeError(f"no option named {', '.join(unknown)} for {variant}; choose among {', '.join(known)}")
    for option, (only, why) in _FIXED_OPTIONS.items():
        if options.get(option, only) != only:
            raise ValueError(f"got {option}={options[option]}; expected {only}: {why}")
    features = [option for option in ("out_indices", "feature_cls") if option in options]
    if features and not options.get("features_only"):
        raise ValueError(f"got {' and '.join(features)} without features_only=True; add it, or leave them out")
    if (given := options.get("feature_cls", _FEATURE_CLASSES[0])) not in _FEATURE_CLASSES:
        allowed = " or ".join(map(repr, _FEATURE_CLASSES))
        raise ValueError(
            f"got feature_cls={given!r}; expected {allowed}: others need a sequence of modules or torch.fx"
        )


def register(variant: str) -> None:
    """Enter a model into timm's registry."""

    def entrypoint(pretrained: bool = False, **options: Any) -> nn.Module:
        return create(variant, pretrained, **options)

    entrypoint.__name__ = entrypoint.__qualname__ = variant
    entrypoint.__doc__ = f"Build `{variant.removeprefix(PREFIX)}` of ropevit; see `create`."
    globals()[variant] = timm_models.register_model(entrypoint)  # timm lists it among the names of this module


def bare_names() -> list[str]:
    """Return the names to register without the prefix too: those that are not yet taken in timm."""
    names = [name for name in NAMES if name not in CLASHES]
    taken = [name for name in names if timm_models.is_model(name)]
    if taken:
        warnings.warn(
            f"timm already has other models named {join_names(taken, 3)}, which keep their names; "
            f"use {PREFIX}NAME for those of ropevit",
            stacklevel=2,
        )
    return [name for name in names if name not in taken]


#: Models of the architectures that are registered with timm; those of timm's own families are not.
NAMES = [
    name
    for name, config in MODELS.items()
    if architecture(config) in CLASSES and getattr(config, "rope_convention", RopeConvention()) == RopeConvention()
]

VARIANTS = [*(PREFIX + name for name in NAMES), *bare_names()]

#: `PretrainedCfg` by model name and tag, which timm's `register_model` reads from this module.
default_cfgs = timm_models.generate_default_cfgs(
    {
        f"{variant}.{TAG}" if variant.removeprefix(PREFIX) in PUBLISHED else variant: default_cfg(
            variant.removeprefix(PREFIX)
        )
        for variant in VARIANTS
    }
)

for _variant in VARIANTS:
    register(_variant)
