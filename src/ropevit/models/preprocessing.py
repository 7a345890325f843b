"""Preprocessing of images for pretrained weights: looks up that of a config in the registry."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from ropevit.models.architectures import MODELS, VARIANTS, Config
from ropevit.models.config import Preprocessing, Variant
from ropevit.rope import RopeConvention


def preprocessing_of(config: Config, source: str = "") -> Preprocessing:
    """Return the preprocessing registered for the family of a config.

    A model that is not registered, such as one of another depth, has what all registered models of its rotation
    convention, position embedding and, where these differ, width and image size have in common.

    Args:
        config: Config of the model.
        source: Hub id or file name of its weights, for those with other preprocessing than their family.
    """
    same = [(each, variant) for each, variant in _registered() if _family(each) == _family(config)]
    others = {part: other for _, variant in same for part, other in variant.other_preprocessing.items()}
    named = next((other for part, other in others.items() if part in PurePath(source).name), None)
    if named is not None:
        return named
    of_width = [row for row in same if row[0].width == config.width]
    of_size = [row for row in of_width if row[0].img_size == config.img_size]
    return Preprocessing(**{field: _agreed(field, of_size, of_width, same) for field in Preprocessing._fields})


def _registered() -> Iterator[tuple[Config, Variant]]:
    """Yield the config of every registered model, and its variant."""
    for _, variant in VARIANTS.values():
        for name in variant.names.values():
            yield MODELS[name], variant


def _family(config: Config) -> tuple[Any, ...]:
    """Return what models of a family share: architecture, position embedding, axes, pairs and coordinates."""
    convention: RopeConvention | None = getattr(config, "rope_convention", None)
    if convention is None:
        return type(config), config.position
    grid = None if convention.reference_grid is None else (1, 1)
    return type(config), config.position, replace(convention, reference_grid=grid, offset=0.0)


def _agreed(field: str, *levels: list[tuple[Config, Variant]]) -> Any:
    """Return the value of a field in the first list of models that agree in it; its default if none does."""
    for models in levels:
        values = {getattr(variant.preprocessing, field) for _, variant in models}
        if len(values) == 1:
            return values.pop()
    return Preprocessing._field_defaults[field]
