"""Position embeddings by name: their components, labels in tables, and styles in plots."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ropevit.rope.types import DISTANCE_BIAS_TYPES, ROPE_TYPES


class PositionEmbedding(NamedTuple):
    """Components of a position embedding."""

    rope: str | None
    """Type of the rotary embedding, a name of `ROPE_TYPES`."""
    absolute: bool = False
    """A learned vector for each patch."""
    bias: bool = False
    """A learned bias for each relative position in a window."""
    distance: str | None = None
    """Type of the distance bias, a name of `DISTANCE_BIAS_TYPES`."""


#: Suffixes of `rope_NAME` and the components that they add.
SUFFIXES = {"": {}, "_ape": {"absolute": True}, "_rpb": {"bias": True}}


class PositionEmbeddings(Mapping[str, PositionEmbedding]):
    """Position embeddings of an architecture: every rope type with some suffixes, distance biases, and others.

    A live view: types that are registered later are included.

    Args:
        plain: Embeddings without rotation and distance bias.
        suffixes: Keys of `SUFFIXES`.
        windowed: Whether to leave out the distance biases that make no sense in windows.
    """

    def __init__(self, plain: Mapping[str, PositionEmbedding], suffixes: tuple[str, ...], windowed: bool = False):
        self.plain, self.suffixes, self.windowed = dict(plain), suffixes, windowed

    def table(self) -> dict[str, PositionEmbedding]:
        """Return all position embeddings by name; published types come first, distance biases last."""
        ropes = {
            f"rope_{name}{suffix}": PositionEmbedding(name, **SUFFIXES[suffix])
            for published in (True, False)
            for suffix in self.suffixes
            for name, rope_type in ROPE_TYPES.items()
            if rope_type.published == published
        }
        kinds = {name: kind for name, kind in DISTANCE_BIAS_TYPES.items() if kind.in_windows or not self.windowed}
        alone = {name: PositionEmbedding(None, distance=name) for name, kind in kinds.items() if not kind.beside_rope}
        beside = {
            f"rope_{rope}_{name}": PositionEmbedding(rope, distance=name)
            for name, kind in kinds.items()
            for rope in ROPE_TYPES
            if kind.beside_rope
        }
        return self.plain | ropes | alone | beside

    def __getitem__(self, name: str) -> PositionEmbedding:
        return self.table()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table())

    def __len__(self) -> int:
        return len(self.table())


#: Position embeddings of a ViT, and of a Swin.
VIT_EMBEDDINGS = PositionEmbeddings(
    {"none": PositionEmbedding(None), "ape": PositionEmbedding(None, absolute=True)}, ("", "_ape")
)
SWIN_EMBEDDINGS = PositionEmbeddings(
    {"none": PositionEmbedding(None), "rpb": PositionEmbedding(None, bias=True)}, ("", "_rpb", "_ape"), windowed=True
)

#: Label of each other embedding, and its colour and marker, from a colour-blind safe palette.
_PLAIN_LABELS = {"none": "no position embedding", "ape": "absolute (APE)", "rpb": "relative bias (RPB)"}
_PLAIN_STYLES = {"none": ("#999999", "x"), "ape": ("#D55E00", "s"), "rpb": ("#E69F00", "s")}


def split_name(position: str) -> tuple[str, str]:
    """Split `rope_axial_ape` into the rope type and the suffix: ("axial", "_ape")."""
    rope_type, _, suffix = position.removeprefix("rope_").partition("_")
    return rope_type, f"_{suffix}" if suffix else ""


def split_theta(name: str) -> tuple[str, float | None]:
    """Split `rope_axial:theta=10` into the position embedding and the base of its frequencies, if any.

    Raises:
        ValueError: If something else stands behind the colon.
    """
    position, colon, option = name.partition(":")
    if not colon:
        return position, None
    key, _, value = option.partition("=")
    try:
        theta = float(value)
    except ValueError:
        theta = math.nan
    if key != "theta" or not 0 < theta < math.inf:
        raise ValueError(f"got {option!r} behind {position!r}; expected theta=NUMBER, such as rope_axial:theta=10")
    return position, theta


def find_position_embedding(name: str) -> PositionEmbedding | None:
    """Return the components of a position embedding of any architecture; None if there is no such name."""
    return VIT_EMBEDDINGS.get(name) or SWIN_EMBEDDINGS.get(name)


def is_position_embedding(name: str) -> bool:
    """Return whether any architecture has a position embedding of this name."""
    return find_position_embedding(name) is not None


def is_published(position: str) -> bool:
    """Return whether the paper's authors published weights with this embedding, or it is one of the baselines."""
    found = find_position_embedding(position)
    if found is None or found.distance is not None:
        return found is None
    return found.rope is None or ROPE_TYPES[found.rope].published


def position_label(position: str) -> str:
    """Return the label of a position embedding in tables and sentences; other names are returned unchanged.

    >>> position_label("rope_axial:theta=10")
    'RoPE-Axial, theta 10'
    """
    name, theta = split_theta(position) if position.startswith("rope_") else (position, None)
    if theta is not None:
        return f"{position_label(name)}, theta {theta:g}"
    found = find_position_embedding(position)
    if found is None or position in _PLAIN_LABELS:
        return _PLAIN_LABELS.get(position, position)
    _, suffix = split_name(position)
    bias = None if found.distance is None else DISTANCE_BIAS_TYPES[found.distance].label
    if found.rope is None:
        return bias or position
    return ROPE_TYPES[found.rope].label + (f" + {bias or suffix[1:].upper()}" if suffix else "")


def position_style(position: str) -> tuple[str, str]:
    """Return colour and marker of a position embedding, the same in every plot.

    RPB (Swin) and APE (ViT) never occur in one plot, so a rotation combined with either has the same style. Another
    base of the frequencies, as in `rope_axial:theta=10`, has another marker.

    Raises:
        ValueError: If the name is unknown.
    """
    name, theta = split_theta(position)
    if theta is not None:
        return position_style(name)[0], "2"
    found = find_position_embedding(position)
    if found is None:
        raise ValueError(f"no position embedding named {position!r}")
    if position in _PLAIN_STYLES:
        return _PLAIN_STYLES[position]
    bias = None if found.distance is None else DISTANCE_BIAS_TYPES[found.distance]
    if found.rope is None:
        assert bias is not None
        return bias.style
    rope = ROPE_TYPES[found.rope]
    if bias is not None:
        return rope.style[0], bias.style[1]
    return rope.combined_style if found.absolute or found.bias else rope.style


def describe_positions() -> str:
    """Return the help text of options that take a position embedding."""
    types = ", ".join(f"rope_{name}" for name in ROPE_TYPES)
    plain = ", ".join(dict.fromkeys([*VIT_EMBEDDINGS.plain, *SWIN_EMBEDDINGS.plain]))
    alone = ", ".join(name for name, kind in DISTANCE_BIAS_TYPES.items() if not kind.beside_rope)
    beside = " or ".join(f"_{name}" for name, kind in DISTANCE_BIAS_TYPES.items() if kind.beside_rope)
    return (
        f"Position embedding: {plain} (ape of a ViT, rpb of a Swin), {types}; these also with _ape, or _rpb in a Swin. "
        f"Distance biases: {alone}; {beside} behind a rotation."
    )
