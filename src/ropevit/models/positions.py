"""Position embeddings by name: their components, labels in tables, and styles in plots."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ropevit.models.position_options import split_options
from ropevit.rope.types import DISTANCE_BIAS_TYPES, ROPE_TYPES, DistanceBiasType


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
        biases = self.distance_biases()
        alone = {
            name: PositionEmbedding(None, distance=name)
            for name, bias_type in biases.items()
            if not bias_type.combines_with_rope
        }
        beside = {
            f"rope_{rope}_{name}": PositionEmbedding(rope, distance=name)
            for name, bias_type in biases.items()
            for rope in ROPE_TYPES
            if bias_type.combines_with_rope
        }
        return self.plain | ropes | alone | beside

    def distance_biases(self) -> dict[str, DistanceBiasType]:
        """Return the types of its distance biases by name."""
        return {
            name: bias_type
            for name, bias_type in DISTANCE_BIAS_TYPES.items()
            if bias_type.in_windows or not self.windowed
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
    {"none": PositionEmbedding(None), "rpb": PositionEmbedding(None, bias=True)}, ("", "_rpb", "_ape"), windowed=True
)

#: Both, by the label of the architecture.
EMBEDDINGS = {"ViT": VIT_EMBEDDINGS, "Swin": SWIN_EMBEDDINGS}

#: Label of each other embedding, and its color and marker, from a color-blind safe palette.
_PLAIN_LABELS = {"none": "no position embedding", "ape": "absolute (APE)", "rpb": "relative bias (RPB)"}
_PLAIN_STYLES = {"none": ("#999999", "x"), "ape": ("#D55E00", "s"), "rpb": ("#E69F00", "s")}


def split_position(position: str) -> tuple[str, str]:
    """Split `rope_axial_ape` into the rope type and the suffix: ("axial", "_ape")."""
    rope_type, _, suffix = position.removeprefix("rope_").partition("_")
    return rope_type, f"_{suffix}" if suffix else ""


def find_position_embedding(name: str) -> PositionEmbedding | None:
    """Return the components of a position embedding of any architecture; None if there is no such name."""
    return VIT_EMBEDDINGS.get(name) or SWIN_EMBEDDINGS.get(name)


def is_position_embedding(name: str) -> bool:
    """Return whether any architecture has a position embedding of this name."""
    return find_position_embedding(name) is not None


def is_published(position: str) -> bool:
    """Return whether the paper's authors published weights with this embedding, or it is one of the baselines.

    An unknown name, of an architecture with a table of its own, counts as published: a file without a config is checked
    for it as for published models (`ropevit.weights.match`).
    """
    found = find_position_embedding(position)
    if found is None or found.distance is not None:
        return found is None
    return found.rope is None or ROPE_TYPES[found.rope].published


def position_label(position: str) -> str:
    """Return the label of a position embedding in tables and sentences; other names are returned unchanged.

    >>> position_label("rope_axial:theta=10")
    'RoPE-Axial, theta 10'
    >>> position_label("rope_axial:rest=0.25")
    'RoPE-Axial, 0.25 unrotated'
    """
    name, options = split_options(position) if position.startswith("rope_") else (position, {})
    if options:
        words = {"theta": "theta {:g}", "rest": "{:.3g} unrotated"}
        return ", ".join([position_label(name), *(words[key].format(value) for key, value in options.items())])
    found = find_position_embedding(position)
    if found is None or position in _PLAIN_LABELS:
        return _PLAIN_LABELS.get(position, position)
    _, suffix = split_position(position)
    bias = None if found.distance is None else DISTANCE_BIAS_TYPES[found.distance].label
    if found.rope is None:
        return bias or position
    return ROPE_TYPES[found.rope].label + (f" + {bias or suffix[1:].upper()}" if suffix else "")


def position_style(position: str) -> tuple[str, str]:
    """Return color and marker of a position embedding, the same in every plot.

    RPB (Swin) and APE (ViT) never occur in one plot, so a rotation combined with either has the same style. Another
    base of the frequencies, as in `rope_axial:theta=10`, has another marker, and so have unrotated pairs.

    Raises:
        ValueError: If the name is unknown.
    """
    name, options = split_options(position)
    if options:
        return position_style(name)[0], "4" if "rest" in options else "2"
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


def describe_positions(architectures: Mapping[str, PositionEmbeddings] = EMBEDDINGS) -> str:
    """Return the names of all position embeddings for help texts and messages, with suffixes named once.

    Args:
        architectures: Position embeddings by the label of the architecture, which is added to what not all have.
    """
    biases = {label: own.distance_biases() for label, own in architectures.items()}
    plain = _join_marked({label: own.plain for label, own in architectures.items()})
    ropes = ", ".join(f"rope_{name}" for name in ROPE_TYPES)
    suffixes = {label: [suffix for suffix in own.suffixes if suffix] for label, own in architectures.items()}
    joined = {label: [f"_{n}" for n, row in own.items() if row.combines_with_rope] for label, own in biases.items()}
    alone = {label: [name for name, row in own.items() if not row.combines_with_rope] for label, own in biases.items()}
    endings = _join_marked({label: [*suffixes[label], *joined[label]] for label in architectures})
    return f"{plain}, {ropes} (each rope_ name also with an ending: {endings}), {_join_marked(alone)}"


def _join_marked(names: Mapping[str, Iterable[str]]) -> str:
    """List the names of all architectures once; those that not all have are followed by who has them."""
    owners: dict[str, list[str]] = {}
    for label, own in names.items():
        for name in own:
            owners.setdefault(name, []).append(label)
    return ", ".join(
        name if len(labels) == len(names) else f"{name} ({', '.join(labels)})" for name, labels in owners.items()
    )
