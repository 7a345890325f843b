"""Position embeddings by name: their components, labels in tables, and styles in plots."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ropevit.rope.types import ROPE_TYPES


class PositionEmbedding(NamedTuple):
    """Components of a position embedding."""

    rope: str | None
    """Type of the rotary embedding, a name of `ROPE_TYPES`."""
    absolute: bool = False
    """A learned vector for each patch."""
    bias: bool = False
    """A learned bias for each relative position in a window."""


#: Suffixes of `rope_NAME` and the components that they add.
SUFFIXES = {"": {}, "_ape": {"absolute": True}, "_rpb": {"bias": True}}


class PositionEmbeddings(Mapping[str, PositionEmbedding]):
    """Position embeddings of an architecture: those without rotation, and every rope type with some suffixes.

    A live view: rope types that are registered later are included.

    Args:
        plain: Embeddings without rotation.
        suffixes: Keys of `SUFFIXES`.
    """

    def __init__(self, plain: Mapping[str, PositionEmbedding], suffixes: tuple[str, ...]):
        self.plain, self.suffixes = dict(plain), suffixes

    def table(self) -> dict[str, PositionEmbedding]:
        """Return all position embeddings by name; published types come first."""
        return self.plain | {
            f"rope_{name}{suffix}": PositionEmbedding(name, **SUFFIXES[suffix])
            for published in (True, False)
            for suffix in self.suffixes
            for name, rope_type in ROPE_TYPES.items()
            if rope_type.published == published
        }

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
    {"none": PositionEmbedding(None), "rpb": PositionEmbedding(None, bias=True)}, ("", "_rpb", "_ape")
)

#: Label of each embedding without rotation, and its colour and marker, from a colour-blind safe palette.
_PLAIN_LABELS = {"none": "no position embedding", "ape": "absolute (APE)", "rpb": "relative bias (RPB)"}
_PLAIN_STYLES = {"none": ("#999999", "x"), "ape": ("#D55E00", "s"), "rpb": ("#E69F00", "s")}


def split_name(position: str) -> tuple[str, str]:
    """Split `rope_axial_ape` into the rope type and the suffix: ("axial", "_ape")."""
    rope_type, _, suffix = position.removeprefix("rope_").partition("_")
    return rope_type, f"_{suffix}" if suffix else ""


def is_position_embedding(name: str) -> bool:
    """Return whether any architecture has a position embedding of this name."""
    return name in VIT_EMBEDDINGS or name in SWIN_EMBEDDINGS


def is_published(position: str) -> bool:
    """Return whether the paper's authors published weights with this embedding, or it is one of the baselines."""
    rope_type, _ = split_name(position)
    return rope_type not in ROPE_TYPES or ROPE_TYPES[rope_type].published


def position_label(position: str) -> str:
    """Return the label of a position embedding in tables and sentences; other names are returned unchanged."""
    rope_type, suffix = split_name(position)
    if position in _PLAIN_LABELS or not is_position_embedding(position):
        return _PLAIN_LABELS.get(position, position)
    return ROPE_TYPES[rope_type].label + (f" + {suffix[1:].upper()}" if suffix else "")


def position_style(position: str) -> tuple[str, str]:
    """Return colour and marker of a position embedding, the same in every plot.

    RPB (Swin) and APE (ViT) never occur in one plot, so a rotation combined with either has the same style.

    Raises:
        ValueError: If the name is unknown.
    """
    if not is_position_embedding(position):
        raise ValueError(f"no position embedding named {position!r}")
    rope_type, suffix = split_name(position)
    if position in _PLAIN_STYLES:
        return _PLAIN_STYLES[position]
    return ROPE_TYPES[rope_type].combined_style if suffix else ROPE_TYPES[rope_type].style


def describe_positions() -> str:
    """Return the help text of options that take a position embedding."""
    types = ", ".join(f"rope_{name}" for name in ROPE_TYPES)
    plain = ", ".join(dict.fromkeys([*VIT_EMBEDDINGS.plain, *SWIN_EMBEDDINGS.plain]))
    return (
        f"Position embedding: {plain} (ape of a ViT, rpb of a Swin), {types}; these also with _ape, or _rpb in a Swin."
    )
