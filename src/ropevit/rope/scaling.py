"""Rules for grids larger than those of training: what a rotation makes of positions that no training has shown.

A rule is a small frozen object with a name. Chained, "parts+log" first changes frequencies pair by pair, then sharpens
attention; `parse_scaling` reads such names. Rules see

    scale = grid / trained grid, along x and y

and are written so that a scale of 1 changes no bit: there is no branch on sizes, one graph serves them all.

Rules take any frequencies, axial or mixed, shared (2, P) or by head (2, A, P): a pair has a vector (f_x, f_y), and its
speed is the vector's length.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


class RotaryInputs(NamedTuple):
    """Inputs of rotary attention that a scaling method may change."""

    positions: Float[Tensor, "*B N 2"]
    """Columns x and y of the tokens, in patches."""
    frequencies: Float[Tensor, "2 *A P"]
    """Radians per patch."""
    attention_factor: Float[Tensor, ""] | None = None
    """Factor on the attention logits; None means 1."""


class GridSizes(NamedTuple):
    """Tokens along x and y that attend to each other."""

    current: Float[Tensor, "2"]
    reference: Float[Tensor, "2"]


def scale_factors(grids: GridSizes) -> Float[Tensor, "2"]:
    """Give the scale along x and y, but 1 where the grid is smaller than the trained one."""
    return (grids.current / grids.reference).clamp(min=1)


@runtime_checkable
class ScalingMethod(Protocol):
    """What all rules have."""

    name: ClassVar[str]

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Change how tokens are inputs."""
        ...


def per_axis(per_axis: Float[Tensor, "2"], frequencies: Float[Tensor, "2 *A P"]) -> Float[Tensor, "2 *ones"]:
    """Give a number for each axis the shape that multiplies frequencies."""
    return per_axis.to(frequencies.dtype).reshape(-1, *[1] * (frequencies.ndim - 1))


def multiply_attention_factor(inputs: RotaryInputs, factor: Float[Tensor, ""]) -> RotaryInputs:
    """Multiply the factor on attention logits."""
    return inputs._replace(
        attention_factor=factor if inputs.attention_factor is None else inputs.attention_factor * factor
    )


@dataclass(frozen=True)
class LinearScaling:
    """Squeeze a larger grid into the trained one: frequencies over scale, axis by axis; smaller grids stay.

    Source: Chen et al. 2023 (arXiv:2306.15595), position interpolation.
    """

    name: ClassVar[str] = "pi"

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Divide the frequencies."""
        return inputs._replace(frequencies=inputs.frequencies / per_axis(scale_factors(grids), inputs.frequencies))


@dataclass(frozen=True)
class NormalizedCoordinates:
    """Let every grid, larger or smaller, span what the trained one spans: frequencies over scale, axis by axis.

    With coordinates from -1 to 1 this is so by itself; it suits models that were trained with it at many sizes.

    Attributes:
        by: "separate" takes each axis over its own scale; "max" and "min" take both over the larger, or smaller, scale,
            which keeps the shape of patches.

    Source: Simeoni et al. 2025 (arXiv:2508.10104), DINOv3.
    """

    by: str = "separate"
    name: ClassVar[str] = "normalise"

    def __post_init__(self):
        if self.by not in ("separate", "max", "min"):
            raise ValueError(f"got by={self.by!r}; expected separate, max or min")

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Divide the frequencies."""
        scale = grids.current / grids.reference
        if self.by != "separate":
            scale = (scale.amax() if self.by == "max" else scale.amin()).expand(2)
        return inputs._replace(frequencies=inputs.frequencies / per_axis(scale, inputs.frequencies))


@dataclass(frozen=True)
class NTKScaling:
    """Interpolate the slowest pair of a head fully, the fastest not at all, those between by how fast they are.

    frequency * scale^(-e), e = log(fastest / speed) / log(fastest / slowest). For RoPE-Axial with n pairs an axis, pair
    i has e = i / (n - 1): a base of theta * scale^(n / (n - 1)), as NTK-aware scaling has it.

    Attributes:
        floor: Pairs slower than this share of the fastest count as the slowest: learned speeds may come near 0.

    Source: bloc97 2023, "NTK-aware scaled RoPE"; per axis as VisionNTK in Lu et al. 2024 (arXiv:2402.12376), FiT, with
    decoupled axes.
    """

    floor: float = 1e-3
    name: ClassVar[str] = "ntk"

    def __post_init__(self):
        if not 0 < self.floor < 1:
            raise ValueError(f"got floor={self.floor}; expected a share between 0 and 1")

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Scale the frequencies."""
        speed = magnitude(inputs.frequencies)
        fastest = speed.amax(-1, keepdim=True)
        slowness = (fastest / speed.maximum(self.floor * fastest)).log()
        exponent = slowness / slowness.amax(-1, keepdim=True).clamp(min=1e-6)
        return inputs._replace(
            frequencies=inputs.frequencies * per_axis(scale_factors(grids), inputs.frequencies) ** -exponent
        )


@dataclass(frozen=True)
class NTKByParts:
    """Interpolate pairs that turn seldom over the trained grid, leave those that turn often: "NTK by parts".

    Over a trained grid of w x h tokens a pair makes r turns: the length of (f_x w, f_y h), over 2 pi. It is
    interpolated fully up to `slow` turns, left alone from `fast` turns on, and between them
    frequency / scale + (frequency - frequency / scale) * (r - slow) / (fast - slow).

    Attributes:
        slow: Half a turn: differences of positions, of both signs, then cover the whole circle in training.
        fast: Two turns. A sentence is thousands of tokens long and takes 1 and 32; on a trained grid of 14 x 14 patches
            the fastest pair of RoPE-Axial makes 2.2 turns, so 32 would interpolate everything.

    Source: Peng et al. 2023 (arXiv:2309.00071), YaRN, section 3.2, with the turns counted along the pair's direction.
    The bounds for images are this package's choice.
    """

    slow: float = 0.5
    fast: float = 2.0
    name: ClassVar[str] = "parts"

    def __post_init__(self):
        if not 0 <= self.slow < self.fast:
            raise ValueError(f"got slow={self.slow}, fast={self.fast}; expected turns, slow below fast")

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Scale the frequencies."""
        return ntk_by_parts(inputs, grids, self.slow, self.fast)


def ntk_by_parts(inputs: RotaryInputs, grids: GridSizes, slow: float, fast: float) -> RotaryInputs:
    """Interpolate each pair by how often it turns over the trained grid; see `NTKByParts`."""
    frequencies = inputs.frequencies
    turns = magnitude(frequencies * per_axis(grids.reference, frequencies)) / (2 * math.pi)
    kept = ((turns - slow) / (fast - slow)).clamp(0, 1)
    change = frequencies / per_axis(scale_factors(grids), frequencies) - frequencies
    return inputs._replace(frequencies=frequencies + change * (1 - kept))


@dataclass(frozen=True)
class Yarn:
    """Parts, and sharper attention: queries times (0.1 log s + 1)^2, s^2 being how many times more tokens there are.

    Attributes:
        slow: As in `Parts`.
        fast: As in `Parts`.

    Source: Peng et al. 2023 (arXiv:2309.00071), YaRN: queries and keys each take 0.1 log s + 1. As VisionYaRN in Lu et
    al. 2024 (arXiv:2402.12376), FiT, for images.
    """

    slow: float = NTKByParts.slow
    fast: float = NTKByParts.fast
    name: ClassVar[str] = "yarn"

    def __post_init__(self):
        NTKByParts(self.slow, self.fast)  # refuses what it refuses

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Scale the frequencies, and sharpen attention."""
        growth = scale_factors(grids).log().mean()
        return multiply_attention_factor(ntk_by_parts(inputs, grids, self.slow, self.fast), (0.1 * growth + 1) ** 2)


@dataclass(frozen=True)
class LogN:
    """Keep attention as sharp among more tokens: queries times (log tokens / log trained tokens)^power.

    Below the trained grid attention gets softer. The patches are counted, at least 2.

    Attributes:
        power: 1 keeps the weight of one key that stands out by a fixed score; 0.5 the entropy of scores that are spread
            like a normal distribution (`entropy`).

    Source: Chiang and Cholak 2022 (arXiv:2202.12172) for 1; for images https://jerryxio.ng/posts/nd-rope. Jin et al.
    2023 (arXiv:2306.08645) for 0.5.
    """

    power: float = 1.0
    name: ClassVar[str] = "log"

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Sharpen or soften attention."""
        now, trained = (tokens.prod().clamp(min=2).log() for tokens in grids)
        return multiply_attention_factor(inputs, (now / trained) ** self.power)


@dataclass(frozen=True)
class CoordinateJitter:
    """Show training other coordinates at each step: moved, stretched axis by axis, and scaled as a whole.

    positions -> (positions + shift * grid / 2) * stretch * scale. Nothing happens in evaluation. Tokens in front of the
    patches stay at the origin; where there are none, a shift changes nothing, as scores depend on differences alone.

    Attributes:
        shift: Largest move, in halves of the grid; uniform, axis by axis.
        jitter: Largest stretch of an axis; log-uniform from 1 / jitter to jitter.
        rescale: Largest scale of both; log-uniform likewise. DINOv3 takes 2, and neither of the others.

    Source: Simeoni et al. 2025 (arXiv:2508.10104), DINOv3, over coordinates from -1 to 1.
    """

    shift: float = 0.0
    jitter: float = 1.0
    rescale: float = 2.0
    name: ClassVar[str] = "jitter"

    def __post_init__(self):
        if not (0 <= self.shift < math.inf and 1 <= self.jitter < math.inf and 1 <= self.rescale < math.inf):
            raise ValueError(
                f"got shift={self.shift}, jitter={self.jitter}, rescale={self.rescale}; expected at least 0, 1 and 1, "
                "and none infinite"
            )

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes, whatever is drawn."""
        return (self.shift, self.jitter, self.rescale) == (0, 1, 1)

    def sample(
        self, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "2 2"]:
        """Draw for one training step: row 0 moves x and y, in halves of the grid; row 1 stretches them."""
        move, each, both = (2 * torch.rand(3, 2, generator=generator, device=device) - 1).unbind()
        stretch = each * math.log(self.jitter) + both[0] * math.log(self.rescale)
        return torch.stack([move * self.shift, stretch.exp()])

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Change nothing: `moved` does, with what was drawn."""
        del grids
        return inputs


def apply_jitter(inputs: RotaryInputs, grids: GridSizes, draw: Float[Tensor, "2 2"]) -> RotaryInputs:
    """Move and stretch coordinates as drawn by `Jitter.draw`; positions move, frequencies stretch."""
    positions = inputs.positions + draw[0] * grids.current / 2
    return inputs._replace(positions=positions, frequencies=inputs.frequencies * per_axis(draw[1], inputs.frequencies))


def magnitude(frequencies: Float[Tensor, "2 *A P"]) -> Float[Tensor, "*A P"]:
    """Measure the speeds of pairs; 0 has a gradient of 0."""
    squared = frequencies.square().sum(0)
    return squared.clamp(min=1e-30).sqrt()


#: Other names of the same methods, as transformers and language models call them.
SYNONYMS = {"linear": "pi", "ntk_by_parts": "parts", "logn": "log"}

#: name -> method, as `parse_scaling` reads them; "entropy" is a variant of "log".
SCALING_METHODS: Mapping[str, ScalingMethod] = {
    method.name: method
    for method in (
        *(LinearScaling(), NormalizedCoordinates(), NTKScaling(), NTKByParts(), Yarn(), LogN()),
        CoordinateJitter(),
    )
} | {"entropy": LogN(power=0.5)}


def parse_override(text: str) -> str | None:
    """Read what is asked for instead of a model's own rules: "none" takes them away."""
    return None if text == "none" else text


@dataclass(frozen=True)
class Scaling:
    """Rules in a row, for a model that was trained on a grid.

    >>> inputs = parse_scaling("yarn", trained_grid=(14, 14))(grid_positions(28, 28), frequencies)

    Attributes:
        rules: What is done, in this order.
        trained_grid: Rows and columns of tokens that attended to each other in training.
    """

    methods: tuple[ScalingMethod, ...]
    trained_grid: tuple[int, int]

    def __post_init__(self):
        if min(self.trained_grid) < 1:
            raise ValueError(f"got trained_grid={self.trained_grid}; expected rows and columns of tokens, above 0")

    def __call__(
        self,
        positions: Float[Tensor, "*B N 2"],
        frequencies: Float[Tensor, "2 *A P"],
        draw: Float[Tensor, "2 2"] | None = None,
    ) -> RotaryInputs:
        """Tell how attention sees the tokens of a whole grid.

        Args:
            positions: Of all tokens of the grid, counted from 0: their largest ones tell its size.
            frequencies: Radians per patch.
            draw: What `draw` drew for this step; None in evaluation.
        """
        now = positions.flatten(0, -2).amax(0) + 1
        rows, columns = self.trained_grid
        grids = GridSizes(now, torch.stack([now.new_full((), columns), now.new_full((), rows)]))
        inputs = RotaryInputs(positions, frequencies)
        for rule in self.methods:
            inputs = rule(inputs, grids)
        return inputs if draw is None else apply_jitter(inputs, grids, draw)

    def sample_jitter(
        self, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "2 2"] | None:
        """Draw for one training step, if a rule is random; all layers see the same."""
        jitter = next((rule for rule in self.methods if isinstance(rule, CoordinateJitter)), None)
        return None if jitter is None else jitter.sample(device, generator)


def parse_scaling(text: str, trained_grid: tuple[int, int]) -> Scaling:
    """Read rules by name, in the order of use: "ntk", "parts+log", "normalise(by=max)+jitter(rescale=2)".

    Args:
        text: Names of SCALING_METHODS, with + between them; options of a rule in brackets, with commas between them.
        trained_grid: Rows and columns of tokens that attended to each other in training.

    Raises:
        ValueError: If there is no such rule or option, a value is out of range, or a rule is named twice.
    """
    rules = tuple(parse_method(part.strip()) for part in text.split("+"))
    names = [rule.name for rule in rules]
    if len(set(names)) < len(names):
        raise ValueError(f"got scaling={text!r}; name each rule once")
    return Scaling(rules, trained_grid)


def parse_method(text: str) -> ScalingMethod:
    """Read one method."""
    found = re.fullmatch(r"(\w+)(?:\((.*)\))?", text)
    name = SYNONYMS.get(found[1], found[1]) if found else ""
    if found is None or name not in SCALING_METHODS:
        raise ValueError(f"no rule named {text!r}; choose from {', '.join(SCALING_METHODS)}, joined by +")
    rule: Any = SCALING_METHODS[name]
    known: dict[str, Any] = asdict(rule)
    options = {}
    for part in (found[2] or "").split(",") if found[2] else []:
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in known:
            raise ValueError(f"no option {name!r} of {found[1]}; choose from {', '.join(known) or 'none'}")
        try:
            options[name] = type(known[name])(value)
        except ValueError:
            raise ValueError(f"got {name}={value!r} for {found[1]}; expected a number") from None
    return replace(rule, **options)
