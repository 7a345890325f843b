"""State dicts of an architecture: how other layouts name its weights, and what the shapes tell about its config."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from ropevit.models.positions import PositionEmbedding

#: Most digits of the number of a layer in the name of a weight.
DIGITS = 4

#: Names of weights and their shapes.
Shapes = Mapping[str, tuple[int, ...]]


class KeyPattern(NamedTuple):
    """One weight whose name or shape differs between two layouts; "{}" stands for the number of a layer.

    Where theirs has one number fewer, all layers are stacked in one tensor, along its axis 1.
    """

    ours: str
    theirs: str
    flat: bool = False
    """Theirs has heads and pairs in one axis, the heads outer."""
    later: int = 0
    """How much higher theirs counts the first number."""


@dataclass(frozen=True)
class InferredModel:
    """A model as its weights show it. Fixed frequencies mostly leave no trace, so several embeddings may fit."""

    architecture: str
    """Name of the architecture, a key of `ARCHITECTURES`."""
    fields: dict[str, Any]
    """Fields of the config that shapes tell, position apart."""
    start: dict[str, Any]
    """Fields of the config that the file shows, but in which a model may differ and still have such weights."""
    positions: tuple[str, ...]
    """Position embeddings with such weights."""
    heads: int | tuple[int, ...] | None
    """Heads, where the layout tells them."""
    patches: int
    """Patches for which tables were made; those of the architecture's default image size, if there are none."""


@dataclass(frozen=True, kw_only=True)
class StateDictAdapter:
    """What `ropevit.weights` must know to read and write the state dicts of an architecture."""

    blocks: str
    """Regular expression for the start of the names of its blocks' weights, by which a state dict is recognised."""
    infer: Callable[[Mapping[str, Tensor]], InferredModel | None]
    """Infers the config from weights of any layout; None where they are no model of this architecture."""
    layouts: Mapping[str, tuple[KeyPattern, ...]] = field(default_factory=dict)
    """Other layouts that can be read: name -> the weights that they name otherwise."""
    own_keys: tuple[str, ...] = ()
    """Patterns of names that only our own layout has."""
    derived: Mapping[str, str] = field(default_factory=dict)
    """Entries of other layouts that follow from the config: regular expression -> why they are dropped."""
    written: tuple[str, ...] = ()
    """Other layouts that `ropevit.weights.convert` can write."""
    derived_tables: Callable[[Any], dict[str, Tensor]] | None = None
    """Makes the entries besides weights that a file in the published layout has, from a config."""
    drop_fixed: Callable[[dict[str, Tensor], Any], dict[str, str]] | None = None
    """Takes fixed frequencies out of weights by our names: name -> why. Raises ValueError if they are not the model's,
    in a clause that follows the name of the file."""
    implied_fields: Callable[[Any, str], dict[str, Any]] | None = None
    """Fields that a layout without config takes for granted, with their values. Raises ValueError if it cannot hold the
    model at all, in a clause that follows the name of the file."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Names that others give to published models: theirs -> ours."""


def match_keys(pattern: str, keys: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """List the numbers of all names that a pattern with "{}" stands for, in order."""
    regex = re.compile(re.escape(pattern).replace(r"\{\}", rf"(\d{{1,{DIGITS}}})"))
    found = [match.groups() for key in keys if (match := regex.fullmatch(key))]
    return sorted(found, key=lambda numbers: [int(number) for number in numbers])


def infer_common(shapes: Shapes) -> dict[str, Any] | None:
    """Infer the fields of a config that all our architectures share; None without a projection of patches."""
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
    """Count layers by the highest number in names that start with a pattern; there are no more than names."""
    found = max((int(match[1][:9]) + 1 for key in shapes if (match := re.match(pattern, key))), default=0)
    return min(found, len(shapes))


def axis_length(shapes: Shapes, key: str, axis: int) -> int | None:
    """Return the length of an axis of a weight, if there is one."""
    shape = shapes.get(key, ())
    return shape[axis] if -len(shape) <= axis < len(shape) else None


def rope_parameters(learned: bool) -> set[str | None]:
    """List the published rope types that have, or lack, frequencies among their weights."""
    return {"mixed"} if learned else {None, "axial"}


def positions_with(
    embeddings: Mapping[str, PositionEmbedding], rope: set[str | None], absolute: bool, bias: bool = False
) -> tuple[str, ...]:
    """List the position embeddings that have such weights; a stray absolute one does not count."""
    fitting = {name: kind for name, kind in embeddings.items() if kind.rope in rope and kind.bias == bias}
    names = tuple(name for name, kind in fitting.items() if kind.absolute == absolute)
    return names or tuple(name for name, kind in fitting.items() if not kind.absolute)
