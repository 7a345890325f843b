"""Registries of rotary embeddings and of distance biases: one row each, from which models, options and plots follow."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ropevit.rope.biases import (
    Alibi,
    DistanceBias,
    Fire,
    GaussianDecay,
    LearnedSlopes,
    LogCpb,
    LookHere,
    decay_start,
)
from ropevit.rope.distance import alibi_slopes
from ropevit.rope.frequencies import pairs_per_axis
from ropevit.rope.layers import AxialRope, FixedRope, MixedRope, PolarRope, Rope


class RopeSpec(NamedTuple):
    """Arguments that every rotary embedding is built from."""

    channels: int
    """Channels per head, D."""
    heads: int
    """Number of heads, A."""
    theta: float
    """Base of the frequencies."""
    ndim: int = 2
    """Number of axes."""
    pairs: tuple[int, ...] | None = None
    """Pairs for each axis, x first; None divides them equally."""


@dataclass(frozen=True, kw_only=True)
class RopeType:
    """A row of `ROPE_TYPES`: a rotary embedding that models can be built with.

    A module with fixed frequencies derives from `Rope`, has a method `frequencies(device)`, and is shared by all
    blocks; a learned one derives from `LearnedRope`, has `freqs`, and each block has its own. Both return radians per
    patch, (ndim, P) or (ndim, heads, P).
    """

    make: Callable[[RopeSpec], Rope]
    """Builds the module; raises ValueError for heads that it cannot rotate."""
    learned: bool
    """Whether its frequencies are parameters."""
    theta: float
    """Base of the frequencies of global attention, as in a ViT, unless the config names another one."""
    window_theta: float
    """Base of the frequencies inside attention windows, as in a Swin."""
    label: str
    """Name in tables and plots."""
    style: tuple[str, str]
    """Color and marker in plots."""
    combined_style: tuple[str, str]
    """Color and marker where it is combined with an absolute embedding or a relative position bias."""
    axes: tuple[int, ...] = (2,)
    """Supported numbers of axes: 2 for images, 3 for videos."""
    published: bool = False
    """Whether the paper's authors published weights with it."""
    check: Callable[[RopeSpec], object] | None = None
    """Raises the errors of `make` without building the module, which would draw random numbers."""


#: Name -> type. A model's position embedding is called `rope_NAME`, or `rope_NAME_ape` and the like when combined.
#: Source of the colors: Okabe and Ito 2008, Color Universal Design.
ROPE_TYPES: dict[str, RopeType] = {
    "axial": RopeType(
        make=lambda spec: AxialRope(spec.channels, spec.theta, spec.ndim, spec.pairs),
        learned=False,
        theta=100.0,
        window_theta=50.0,
        label="RoPE-Axial",
        style=("#0072B2", "^"),
        combined_style=("#56B4E9", "v"),
        axes=(2, 3),
        published=True,
    ),
    "mixed": RopeType(
        make=lambda spec: MixedRope(*spec),
        learned=True,
        theta=10.0,
        window_theta=10.0,
        label="RoPE-Mixed",
        style=("#009E73", "o"),
        combined_style=("#CC79A7", "D"),
        axes=(2, 3),
        published=True,
        check=lambda spec: pairs_per_axis(spec.channels, spec.ndim, spec.pairs),
    ),
    "golden": RopeType(
        make=lambda spec: FixedRope("golden", spec.channels, spec.heads, spec.theta),
        learned=False,
        theta=100.0,
        window_theta=50.0,
        label="RoPE-Golden",
        style=("#E69F00", "P"),
        combined_style=("#E69F00", "<"),
    ),
    "spiral": RopeType(
        make=lambda spec: FixedRope("spiral", spec.channels, spec.heads, spec.theta),
        learned=False,
        theta=100.0,
        window_theta=50.0,
        label="RoPE-Spiral",
        style=("#000000", "*"),
        combined_style=("#000000", ">"),
    ),
    "star": RopeType(
        make=lambda spec: FixedRope("star", spec.channels, spec.heads, spec.theta),
        learned=False,
        theta=100.0,
        window_theta=50.0,
        label="RoPE-Star",
        style=("#DDAA33", "X"),
        combined_style=("#DDAA33", "8"),
    ),
    "simplex": RopeType(
        make=lambda spec: FixedRope("simplex", spec.channels, spec.heads, spec.theta),
        learned=False,
        theta=100.0,
        window_theta=50.0,
        label="RoPE-Simplex",
        style=("#9467BD", "p"),
        combined_style=("#9467BD", "H"),
    ),
    "polar": RopeType(
        make=lambda spec: PolarRope(spec.channels, spec.heads, spec.theta),
        learned=True,
        theta=10.0,
        window_theta=10.0,
        label="RoPE-Polar",
        style=("#8C564B", "h"),
        combined_style=("#8C564B", "d"),
    ),
}


def register_rope_type(name: str, rope_type: RopeType) -> None:
    """Register a rotary embedding of your own: `rope_NAME` is then a position embedding of every architecture.

    Args:
        name: Lower-case letters and digits, starting with a letter.
        rope_type: Its row.

    Raises:
        ValueError: If the name is taken or has other characters.
    """
    if not re.fullmatch("[a-z][a-z0-9]*", name):
        raise ValueError(f"got {name!r} for the name of a rope type; expected lower-case letters and digits")
    if name in ROPE_TYPES:
        raise ValueError(f"a rope type named {name!r} exists already; choose another name")
    ROPE_TYPES[name] = rope_type


class DistanceSpec(NamedTuple):
    """Arguments that every distance bias is built from."""

    heads: int
    """Number of heads, A."""
    layer: int = 0
    """Index of the attention layer, from 0."""
    depth: int = 1
    """Number of layers."""


@dataclass(frozen=True, kw_only=True)
class DistanceBiasType:
    """A row of `DISTANCE_BIAS_TYPES`: a bias of attention logits by distance that models can be built with.

    Every attention layer has a module of its own.
    """

    make: Callable[[DistanceSpec], DistanceBias]
    """Builds the module of a layer."""
    learned: bool
    """Whether it has parameters."""
    source: str
    """Publication."""
    label: str
    """Name in tables and plots; beside a rotation it follows that of the rotation."""
    style: tuple[str, str]
    """Color and marker in plots; beside a rotation the color is that of the rotation."""
    combines_with_rope: bool = False
    """Whether it is combined with a rotation, as `rope_TYPE_NAME`, instead of being a position embedding alone."""
    axes: tuple[int, ...] = (2, 3)
    """Supported numbers of axes: 2 for images, 3 for videos."""
    in_windows: bool = True
    """Whether it makes sense in the windows of a Swin."""


#: Name -> type. A model's position embedding is called NAME, or `rope_TYPE_NAME` beside a rotation.
DISTANCE_BIAS_TYPES: dict[str, DistanceBiasType] = {
    "alibi": DistanceBiasType(
        make=lambda spec: Alibi(spec.heads),
        learned=False,
        source="Press et al. 2022 (arXiv:2108.12409), CROMA (arXiv:2311.00566)",
        label="ALiBi",
        style=("#882255", "s"),
    ),
    "alibi_learned": DistanceBiasType(
        make=lambda spec: LearnedSlopes(alibi_slopes(spec.heads)),
        learned=True,
        source="this package, after ALiBi (arXiv:2108.12409)",
        label="ALiBi, learned slopes",
        style=("#882255", "D"),
    ),
    "log_cpb": DistanceBiasType(
        make=lambda spec: LogCpb(spec.heads),
        learned=True,
        source="Liu et al. 2022 (arXiv:2111.09883), Swin v2",
        label="log-spaced bias (Log-CPB)",
        style=("#332288", "o"),
        axes=(2,),
    ),
    "fire": DistanceBiasType(
        make=lambda spec: Fire(spec.heads),
        learned=True,
        source="Li et al. 2024 (arXiv:2310.04418)",
        label="FIRE",
        style=("#CC3311", "P"),
    ),
    "lookhere": DistanceBiasType(
        make=lambda spec: LookHere(*spec),
        learned=False,
        source="Fuller et al. 2024 (arXiv:2405.13985)",
        label="LookHere",
        style=("#44AA99", "^"),
        axes=(2,),
        in_windows=False,
    ),
    "decay": DistanceBiasType(
        make=lambda spec: LearnedSlopes(decay_start(spec.heads)),
        learned=True,
        source="this package, after ALiBi (arXiv:2108.12409)",
        label="distance decay",
        style=("#882255", "1"),
        combines_with_rope=True,
    ),
    "gaussian": DistanceBiasType(
        make=lambda spec: GaussianDecay(decay_start(spec.heads)),
        learned=True,
        source="this package",
        label="Gaussian decay",
        style=("#882255", "3"),
        combines_with_rope=True,
    ),
}


def register_distance_bias_type(name: str, bias_type: DistanceBiasType) -> None:
    """Register a distance bias of your own: NAME, or `rope_TYPE_NAME`, is then a position embedding of every model.

    Args:
        name: Lower-case letters, digits and underscores, starting with a letter.
        bias_type: Its row.

    Raises:
        ValueError: If the name is taken or has other characters.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or name.startswith("rope_"):
        raise ValueError(
            f"got {name!r} for the name of a distance bias; expected lower-case letters, digits and underscores, "
            "without rope_ in front"
        )
    if name in {*DISTANCE_BIAS_TYPES, "none", "ape", "rpb"}:
        raise ValueError(f"a position embedding named {name!r} exists already; choose another name")
    DISTANCE_BIAS_TYPES[name] = bias_type
