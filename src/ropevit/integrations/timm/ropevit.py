"""Every model of the registry as a model of timm; timm lists them under the name of this file."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ropevit.extras import require
from ropevit.integrations.timm.models import CLASSES, TimmModel
from ropevit.integrations.timm.pretrained import TAG, describe, load_pretrained, read_source
from ropevit.models.architectures import Model, architecture
from ropevit.models.registry import MODELS, PUBLISHED, get_config
from ropevit.text import join_names
from ropevit.weights.fields import lists_to_tuples

timm_models = require("timm.models", "train")

#: What is put before each name of ours; where nothing else has the bare name, that is registered, too.
PREFIX = "ropevit_"

#: Names of the paper that timm gives to models of its own: without the prefix, they are timm's.
CLASHES = frozenset(f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base"))

#: timm's spelling of an option -> the field of our configs.
_SPELLING = {
    "in_chans": "in_channels",
    "drop_path_rate": "drop_path",
    "embed_dim": "width",
    "num_heads": "heads",
    "init_values": "layer_scale",
    "reg_tokens": "num_registers",
    "rope_temperature": "rope_theta",
}

#: Options of timm's scripts that can have one value only here, and why.
_SETTLED = {
    "drop_rate": (0.0, "there is no dropout"),
    "attn_drop_rate": (0.0, "there is no dropout"),
    "proj_drop_rate": (0.0, "there is no dropout"),
    "dynamic_img_size": (True, "every size may be fed"),
    "strict_img_size": (False, "every size may be fed"),
}

#: Options that timm's builder takes.
_BUILDER = {"features_only", "out_indices", "feature_cls", "pretrained_model_args"}


def create(
    variant: str,
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """Build a model as timm's entry points do.

    Args:
        variant: The name under which it is registered.
        pretrained: Load weights: the published ones, or those to which `pretrained_cfg` leads.
        pretrained_cfg: timm's description of the model, or a tag; None takes the registered one.
        pretrained_cfg_overlay: Entries to replace in it, such as {"file": "model.safetensors"}.
        cache_dir: Where to keep what comes from the hub.
        options: num_classes, in_chans, img_size, drop_path_rate, global_pool and fields of the model's config;
            features_only and out_indices for a feature extractor; device and dtype.

    Raises:
        ValueError: If there is no such option, or a value is out of range.
        WeightsError: If there are no such weights, or they do not fit.
    """
    name = variant.removeprefix(PREFIX)
    check_options(variant, options)
    cfg = timm_models.resolve_pretrained_cfg(variant, pretrained_cfg, pretrained_cfg_overlay)
    load = None
    if pretrained:
        saved = options.get("pretrained_model_args") or {}  # of the model that timm's save_for_hf saved
        classes = -1 if cfg.num_classes < 0 else options.get("num_classes")  # below 0 is timm's word for a new head
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
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> TimmModel[Any]:
    """Build a model from options in timm's spelling, and load weights into it."""
    plain = lists_to_tuples({option: value for option, value in options.items() if option not in _SETTLED})
    config = get_config(name, **{_SPELLING.get(option, option): value for option, value in plain.items()})
    model = CLASSES[architecture(config)](config, global_pool)
    if load is not None:
        load(model)
    return model.to(device=device, dtype=dtype)


def check_options(variant: str, options: Mapping[str, Any]) -> None:
    """Refuse options that do not exist, or whose only value is another."""
    unspelt = {*_SPELLING.values(), "position", "pooling", "frames", "tubelet", "pairs"}  # timm's tools feed images
    fields = set(vars(MODELS[variant.removeprefix(PREFIX)]))
    known = sorted((fields - unspelt) | {theirs for theirs, ours in _SPELLING.items() if ours in fields})
    unknown = sorted(set(options) - {*known, *_SETTLED, *_BUILDER, "global_pool", "device", "dtype"})
    if unknown:
        raise ValueError(f"no option named {', '.join(unknown)} for {variant}; choose among {', '.join(known)}")
    for option, (only, why) in _SETTLED.items():
        if options.get(option, only) != only:
            raise ValueError(f"got {option}={options[option]}; expected {only}: {why}")
    features = [option for option in ("out_indices", "feature_cls") if option in options]
    if features and not options.get("features_only"):
        raise ValueError(f"got {' and '.join(features)} without features_only=True; add it, or leave them out")
    if options.get("feature_cls", "getter") != "getter":
        raise ValueError(f"got feature_cls={options['feature_cls']!r}; expected 'getter', or nothing")


def register(variant: str) -> None:
    """Enter a model into timm's registry."""

    def entrypoint(pretrained: bool = False, **options: Any) -> nn.Module:
        return create(variant, pretrained, **options)

    entrypoint.__name__ = entrypoint.__qualname__ = variant
    entrypoint.__doc__ = f"Build `{variant.removeprefix(PREFIX)}` of ropevit; see `create`."
    globals()[variant] = timm_models.register_model(entrypoint)  # timm lists it among the names of this module


def bare_names() -> list[str]:
    """List the names that can go without the prefix: those that nothing else in this process has given to timm."""
    names = [name for name in NAMES if name not in CLASHES]
    taken = [name for name in names if timm_models.is_model(name)]
    if taken:
        warnings.warn(
            f"timm already has other models named {join_names(taken, 3)}, which stay; "
            f"write {PREFIX}NAME for those of ropevit",
            stacklevel=2,
        )
    return [name for name in names if name not in taken]


#: Models of the architectures that have a class for timm.
NAMES = [name for name, config in MODELS.items() if architecture(config) in CLASSES]

VARIANTS = [*(PREFIX + name for name in NAMES), *bare_names()]

#: What timm's `register_model` looks for: a description of each model, with the tag of its weights.
default_cfgs = timm_models.generate_default_cfgs(
    {
        f"{variant}.{TAG}" if variant.removeprefix(PREFIX) in PUBLISHED else variant: describe(
            variant.removeprefix(PREFIX)
        )
        for variant in VARIANTS
    }
)

for _variant in VARIANTS:
    register(_variant)
