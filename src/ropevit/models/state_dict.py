"""State dict adapters: key names of an architecture in other layouts, and inference of its config from shapes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from ropevit.models.positions import PositionEmbedding

#: Most digits of the number of a layer in the name of a weight.
_DIGITS = 4

#: Names of weights and their shapes.
Shapes = Mapping[str, tuple[int, ...]]


class KeyPattern(NamedTuple):
    """A weight whose key or shape differs between two layouts; "{}" stands for a layer index.

    If theirs has one index fewer, all layers are stacked in one tensor, along its axis 1.
    """

    ours: str
    theirs: str
    flat: bool = False
    """Whether theirs has heads and pairs flattened into one axis, heads first."""
    index_offset: int = 0
    """Offset of the layer index in theirs: theirs = ours + offset."""
    unsqueezed: bool = False
    """Whether theirs has one more axis in front, of length 1."""
    squeezed: int = 0
    """Number of axes in front, of length 1, that theirs lacks."""
    transposed: bool = False
    """Whether theirs is the transposed matrix."""


class JoinedPattern(NamedTuple):
    """One ropevit weight stored as several of equal length in another layout, joined along axis 0."""

    ours: str
    theirs: tuple[str | None, ...]
    """Their keys, in order; None for a part of zeros that they do not store."""


class SplitPattern(NamedTuple):
    """Two ropevit weights stored as one in another layout, joined along an axis."""

    ours: tuple[str, str]
    theirs: str
    split_at: int
    """Length of our first weight along the axis."""
    axis: int = 1
    """The axis, in ropevit's weights."""
    squeezed: bool = False
    """Whether theirs lacks the axis in front, of length 1."""


class ZeroPattern(NamedTuple):
    """A ropevit weight that another layout does not store, as it is zero: a bias beside a weight."""

    ours: str
    beside: str
    """Our key of the weight, whose dtype and length of axis 0 the bias has."""


#: How keys of one layout map to ours.
KeyMapping = KeyPattern | JoinedPattern | SplitPattern | ZeroPattern


@dataclass(frozen=True)
class InferredModel:
    """A model inferred from its weights. Fixed frequencies are mostly not stored, so several embeddings may match."""

    architecture: str
    """Name of the architecture, a key of `ARCHITECTURES`."""
    fields: dict[str, Any]
    """Config fields that follow from shapes, except position."""
    suggested: dict[str, Any]
    """Config fields that the file suggests, but that other models with such weights may not share."""
    positions: tuple[str, ...]
    """Position embeddings with such weights."""
    heads: int | tuple[int, ...] | None
    """Heads, if the layout shows them."""
    patches: int | None
    """Patches of the file's tables; None without tables."""
    unnamed_family: bool = False
    """Whether the weights are of a family other than the published models, and which one is ambiguous."""


@dataclass(frozen=True, kw_only=True)
class StateDictAdapter:
    """Describes to `ropevit.weights` how to read and write the state dicts of an architecture."""

    blocks: str
    """Regular expression that matches the start of block keys, by which a state dict is recognized."""
    infer: Callable[[Mapping[str, Tensor]], InferredModel | None]
    """Infers the config from weights of any layout; None if they are of another architecture."""
    layouts: Mapping[str, tuple[KeyMapping, ...]] = field(default_factory=dict)
    """Other layouts that can be read: name -> the keys that differ, by which the layout is recognized."""
    key_mappings: Callable[[Any, str], tuple[KeyMapping, ...]] | None = None
    """Returns the keys that differ in a layout, where they depend on a config; None takes those of `layouts`."""
    own_keys: tuple[str, ...] = ()
    """Key patterns that only the ropevit layout has."""
    derived: Mapping[str, str] = field(default_factory=dict)
    """Entries of other layouts that follow from the config: regular expression -> reason for dropping them."""
    writable: tuple[str, ...] = ()
    """Other layouts that `ropevit.weights.convert` can write."""
    derived_tables: Callable[[Any], dict[str, Tensor]] | None = None
    """Computes the tables that a file in the published layout has besides weights, from a config."""
    drop_fixed: Callable[[dict[str, Tensor], Any], dict[str, str]] | None = None
    """Removes fixed frequencies from weights in the ropevit layout and returns key -> reason. Raises ValueError if they
    are not the model's, with a message that continues the name of the file."""
    implied_fields: Callable[[Any, str], dict[str, Any]] | None = None
    """Config fields that a layout without config implies, with their values. Raises ValueError if it cannot represent
    the model, with a message that continues the name of the file."""
    permutes_channels: Callable[[Any], bool] = lambda config: False  # noqa: ARG005
    """Whether other layouts order the channels of queries and keys otherwise than ours, for a config."""
    reorder: Callable[[str, Tensor, Any, bool], Tensor] | None = None
    """Reorders the channels of a weight, by its name in ours, from the order of other layouts to ours, or back."""
    prefix: Callable[[Any, str], str] = lambda config, layout: ""  # noqa: ARG005
    """Prefix of all keys in a layout, when a file is written, for a config."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Names of published models in other libraries: theirs -> ours."""


def match_keys(pattern: str, keys: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the indices of all keys that match a pattern with "{}", in order."""
    regex = re.compile(re.escape(pattern).replace(r"\{\}", rf"(\d{{1,{_DIGITS}}})"))
    found = [match.groups() for key in keys if (match := regex.fullmatch(key))]
    return sorted(found, key=lambda numbers: [int(number) for number in numbers])


def infer_common(shapes: Shapes) -> dict[str, Any] | None:
    """Infer the config fields that all architectures share; None without a patch embedding."""
    kernel = shapes.get("patch_embed.proj.weight", ())
    if len(kernel) not in (4, 5):
        return None
    return {
        "width": kernel[0],
        "patch_size": kernel[-1],
        "in_channels": kernel[1],
        "num_classes": axis_length(shapes, "head.weight", 0) or axis_length(shapes, "head.fc.weight", 0) or 0,
        **({"tubelet": kernel[2]} if len(kernel) == 5 else {}),
    }


def count_layers(shapes: Shapes, pattern: str) -> int:
    """Count layers by the highest index in keys that start with a pattern, at most the number of keys."""
    found = max((int(match[1][:9]) + 1 for key in shapes if (match := re.match(pattern, key))), default=0)
    return min(found, len(shapes))


def axis_length(shapes: Shapes, key: str, axis: int) -> int | None:
    """Return the length of an axis of a weight, or None if the weight or axis does not exist."""
    shape = shapes.get(key, ())
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def rope_parameters(learned: bool) -> set[str | None]:
    """Return the published rope types with, or without, learned frequencies."""
    return {"mixed"} if learned else {None, "axial"}


def positions_with(
    embeddings: Mapping[str, PositionEmbedding], rope: set[str | None], absolute: bool, bias: bool = False
) -> tuple[str, ...]:
    """Return the published embeddings that have such weights; an unexpected absolute one is ignored."""
    fitting = {
        name: embedding
        for name, embedding in embeddings.items()
        if embedding.rope in rope and embedding.bias == bias and embedding.distance is None
    }
    names = tuple(name for name, embedding in fitting.items() if embedding.absolute == absolute)
    return names or tuple(name for name, embedding in fitting.items() if not embedding.absolute)
