"""Builds a model by name, with or without weights."""

import logging
from dataclasses import replace
from typing import Any

from ropevit.models.architectures import Config, Model, build_model
from ropevit.models.registry import MODELS, get_config, resolve_name
from ropevit.models.vit.video import inflate
from ropevit.weights.hub import hub_id
from ropevit.weights.loading import load_parsed
from ropevit.weights.parse import ParsedCheckpoint, parse_checkpoint
from ropevit.weights.reading import Source, read_checkpoint

log = logging.getLogger(__name__)


def create_model(
    name: str,
    pretrained: bool | Source = False,
    *,
    img_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    **fields: object,
) -> Model:
    """Build a model of the registry.

    >>> model = create_model("rope_mixed_deit_small_patch16_LS", pretrained=True, num_classes=10)

    Args:
        name: A name that `list_models` lists, or a variant such as "deit_small" (with its original position embedding).
        pretrained: True for the published weights, from the hub or its cache; or a path, hub id or state dict to load.
        img_size: Height and width in pixels (or the side of a square) of the absolute embedding, to which a loaded one
            is resized; the model accepts images of any size. The windows of a Swin have 1/32 of it, as in the paper.
        num_classes: Number of classes. If loaded weights have another number, the head is newly initialized; 0 removes
            it.
        fields: Other fields of the model's config, such as drop_path=0.1, scaling="ntk" or, for a Swin, window_size=7.
            timm's names are read, too, such as drop_path_rate, in_chans, global_pool, init_values or reg_tokens.
            With loaded weights, the reference grid of `scaling` is that of their training. frames=16 (and tubelet=2)
            makes a video model; weights of an image model are inflated by `models.inflate`.

    Raises:
        ValueError: If there is no such model or field, or a value is out of range.
        WeightsError: If there are no such weights, or they do not match the model.
    """
    name = resolve_name(name)
    given = {"img_size": img_size, "num_classes": num_classes}
    config = get_config(name, **{key: value for key, value in given.items() if value is not None}, **fields)
    if pretrained is False:
        return build_model(config)
    parsed = parse_checkpoint(read_checkpoint(hub_id(name) if pretrained is True else pretrained))
    if config.trained_grid is None and (grid := trained_grid(parsed, name)) != config.attention_grid:
        config = replace(config, trained_grid=grid)
    if config.is_video and not parsed.is_video:
        return _from_images(config, parsed, num_classes)
    model = build_model(config)
    replace_head = num_classes is not None and parsed.num_classes not in (None, num_classes)
    log.info("%s", load_parsed(model, parsed, replace_head))
    return model


def _from_images(config: Any, parsed: ParsedCheckpoint, num_classes: int | None) -> Model:
    """Build a video model from the weights of an image model; see `ropevit.models.inflate`."""
    model: Any = build_model(replace(config, frames=None, tubelet=1, pairs=getattr(parsed.config, "pairs", None)))
    log.info(
        "%s", load_parsed(model, parsed, num_classes is not None and parsed.num_classes not in (None, num_classes))
    )
    return inflate(model, config.frames, config.tubelet, pairs=config.pairs)


def trained_grid(parsed: ParsedCheckpoint, name: str) -> tuple[int, int]:
    """Return the rows and columns of tokens that attended to each other when the weights were trained.

    Files of this package store it; others are assumed to be published ones, trained as in the registry.
    """
    config: Config = MODELS[name] if parsed.config is None else parsed.config
    return config.trained_grid or config.attention_grid
