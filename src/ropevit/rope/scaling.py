"""RoPE scaling methods: adapt frequencies and attention logits to grids larger than the trained one.

A method is a small frozen dataclass with a name. They can be chained: "parts+log" first changes the frequencies of each
pair, then the attention factor; `parse_scaling` reads such names. Methods depend on

    scale = grid / trained grid, along x and y

and change no bit at a scale of 1. There is no branch on sizes, so one compiled graph serves all of them.

Methods take axial or mixed frequencies, shared (2, P) or per head (2, A, P). A pair's frequency is a vector (f_x, f_y);
its magnitude is that vector's length.
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
    """Numbers of tokens along x and y that attend to each other: now, and in training."""

    current: Float[Tensor, "2"]
    trained: Float[Tensor, "2"]


def scale_factors(grids: GridSizes) -> Float[Tensor, "2"]:
    """Compute the scale along x and y, at least 1."""
    return (grids.current / grids.trained).clamp(min=1)


@runtime_checkable
class ScalingMethod(Protocol):
    """Interface of a scaling method."""

    name: ClassVar[str]

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Return the inputs for a grid, changed."""
        ...


def _expand_axes(values: Float[Tensor, "2"], frequencies: Float[Tensor, "2 *A P"]) -> Float[Tensor, "2 *ones"]:
    """Reshape one number per axis so that it broadcasts against frequencies."""
    return values.to(frequencies.dtype).reshape(-1, *[1] * (frequencies.ndim - 1))


def multiply_attention_factor(inputs: RotaryInputs, factor: Float[Tensor, ""]) -> RotaryInputs:
    """Multiply the attention factor of the inputs."""
    return inputs._replace(
        attention_factor=factor if inputs.attention_factor is None else inputs.attention_factor * factor
    )


@dataclass(frozen=True)
class LinearScaling:
    """Position interpolation: divide frequencies by the scale of each axis; smaller grids are unchanged.

    Source: Chen et al. 2023 (arXiv:2306.15595), position interpolation.
    """

    name: ClassVar[str] = "pi"

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Divide the frequencies."""
        return inputs._replace(frequencies=inputs.frequencies / _expand_axes(scale_factors(grids), inputs.frequencies))


@dataclass(frozen=True)
class NormalizedCoordinates:
    """Normalized coordinates: divide frequencies by the scale of each axis, on smaller grids too.

    Every grid then spans the angles of the trained one, as coordinates from -1 to 1 do. For models that were trained
    with it at several sizes.

    Attributes:
        by: "separate" divides each axis by its own scale; "max" and "min" divide both by the larger or smaller scale,
            which preserves the aspect ratio of patches.

    Source: Simeoni et al. 2025 (arXiv:2508.10104), DINOv3.
    """

    by: str = "separate"
    name: ClassVar[str] = "normalize"

    def __post_init__(self):
        if self.by not in ("separate", "max", "min"):
            raise ValueError(f"got by={self.by!r}; expected separate, max or min")

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Divide the frequencies."""
        scale = grids.current / grids.trained
        if self.by != "separate":
            scale = (scale.amax() if self.by == "max" else scale.amin()).expand(2)
        return inputs._replace(frequencies=inputs.frequencies / _expand_axes(scale, inputs.frequencies))


@dataclass(frozen=True)
class NTKScaling:
    """NTK-aware scaling: interpolate the slowest pair of a head fully, the fastest not at all, the others in between.

    frequency * scale^(-e), e = log(fastest / magnitude) / log(fastest / slowest). For RoPE-Axial with n pairs per axis,
    pair i has e = i / (n - 1), which is a base of theta * scale^(n / (n - 1)).

    Attributes:
        floor: Magnitudes below this fraction of the fastest count as the slowest: learned ones may approach 0.

    Source: bloc97 2023, "NTK-aware scaled RoPE"; per axis as VisionNTK in Lu et al. 2024 (arXiv:2402.12376), FiT, with
    decoupled axes.
    """

    floor: float = 1e-3
    name: ClassVar[str] = "ntk"

    def __post_init__(self):
        if not 0 < self.floor < 1:
            raise ValueError(f"got floor={self.floor}; expected a fraction between 0 and 1")

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Scale the frequencies."""
        magnitudes = magnitude(inputs.frequencies)
        fastest = magnitudes.amax(-1, keepdim=True)
        slowness = (fastest / magnitudes.maximum(self.floor * fastest)).log()
        exponent = slowness / slowness.amax(-1, keepdim=True).clamp(min=1e-6)
        return inputs._replace(
            frequencies=inputs.frequencies * _expand_axes(scale_factors(grids), inputs.frequencies) ** -exponent
        )


@dataclass(frozen=True)
class NTKByParts:
    """NTK by parts: interpolate pairs that make few rotations over the trained grid, keep those that make many.

    Over a trained grid of w x h tokens a pair makes r rotations: the length of (f_x w, f_y h), over 2 pi. It is
    interpolated fully up to `slow` rotations, unchanged from `fast` rotations on, and in between becomes
    frequency / scale + (frequency - frequency / scale) * (r - slow) / (fast - slow).

    Attributes:
        slow: Rotations up to which pairs are interpolated. At half a rotation, relative positions of both signs cover
            the whole circle in training.
        fast: Rotations from which pairs are unchanged. Language models use 1 and 32 on thousands of tokens; on a
            trained grid of 14 x 14 patches the fastest pair of RoPE-Axial makes 2.2, so 32 would interpolate all pairs.

    Source: Peng et al. 2023 (arXiv:2309.00071), YaRN, section 3.2, with rotations counted along the pair's direction.
    The bounds for images are this package's choice.
    """

    slow: float = 0.5
    fast: float = 2.0
    name: ClassVar[str] = "parts"

    def __post_init__(self):
        if not 0 <= self.slow < self.fast:
            raise ValueError(f"got slow={self.slow}, fast={self.fast}; expected rotations, slow below fast")

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Scale the frequencies."""
        return ntk_by_parts(inputs, grids, self.slow, self.fast)


def ntk_by_parts(inputs: RotaryInputs, grids: GridSizes, slow: float, fast: float) -> RotaryInputs:
    """Interpolate each pair by the number of rotations that it makes over the trained grid; see `NTKByParts`."""
    frequencies = inputs.frequencies
    rotations = magnitude(frequencies * _expand_axes(grids.trained, frequencies)) / (2 * math.pi)
    kept = ((rotations - slow) / (fast - slow)).clamp(0, 1)
    change = frequencies / _expand_axes(scale_factors(grids), frequencies) - frequencies
    return inputs._replace(frequencies=frequencies + change * (1 - kept))


@dataclass(frozen=True)
class Yarn:
    """YaRN: NTK by parts with an attention factor of (0.1 log s + 1)^2, where s^2 is the growth in tokens.

    Attributes:
        slow: Rotations up to which pairs are interpolated.
        fast: Rotations from which pairs are unchanged.

    Source: Peng et al. 2023 (arXiv:2309.00071), YaRN: queries and keys each take 0.1 log s + 1. As VisionYaRN in Lu et
    al. 2024 (arXiv:2402.12376), FiT, for images.
    """

    slow: float = NTKByParts.slow
    fast: float = NTKByParts.fast
    name: ClassVar[str] = "yarn"

    def __post_init__(self):
        NTKByParts(self.slow, self.fast)  # checks the bounds

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Scale the frequencies and the attention factor."""
        growth = scale_factors(grids).log().mean()
        return multiply_attention_factor(ntk_by_parts(inputs, grids, self.slow, self.fast), (0.1 * growth + 1) ** 2)


@dataclass(frozen=True)
class LogN:
    """LogN: an attention factor of (log tokens / log trained tokens)^power keeps attention sharp among more tokens.

    Below the trained grid attention becomes softer. Tokens are patches, at least 2.

    Attributes:
        power: 1 preserves the weight of a key whose logit exceeds the others by a fixed margin; 0.5 (`entropy`) the
            entropy of normally distributed logits.

    Source: Chiang and Cholak 2022 (arXiv:2202.12172) for 1; for images https://jerryxio.ng/posts/nd-rope. Jin et al.
    2023 (arXiv:2306.08645) for 0.5.
    """

    power: float = 1.0
    name: ClassVar[str] = "log"

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Multiply the attention factor."""
        now, trained = (tokens.prod().clamp(min=2).log() for tokens in grids)
        return multiply_attention_factor(inputs, (now / trained) ** self.power)


@dataclass(frozen=True)
class CoordinateJitter:
    """Coordinate augmentation: shift, stretch and rescale positions at random in every training step.

    positions -> (positions + shift * grid / 2) * stretch * scale. Evaluation is unchanged. Prefix tokens stay at the
    origin; without them a shift has no effect, as scores depend on relative positions.

    Attributes:
        shift: Largest shift of an axis, in halves of the grid; uniform.
        jitter: Largest stretch of an axis; log-uniform from 1 / jitter to jitter.
        rescale: Largest scale of both axes together; log-uniform likewise. DINOv3 uses 2, and neither of the others.

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
        """Whether every sample is the identity."""
        return (self.shift, self.jitter, self.rescale) == (0, 1, 1)

    def sample(
        self, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "2 2"]:
        """Draw the augmentation of one step: row 0 shifts x and y, in halves of the grid; row 1 stretches them."""
        move, each, both = (2 * torch.rand(3, 2, generator=generator, device=device) - 1).unbind()
        stretch = each * math.log(self.jitter) + both[0] * math.log(self.rescale)
        return torch.stack([move * self.shift, stretch.exp()])

    def __call__(self, inputs: RotaryInputs, grids: GridSizes) -> RotaryInputs:
        """Return the inputs unchanged; `apply_jitter` applies a sample."""
        del grids
        return inputs


def apply_jitter(inputs: RotaryInputs, grids: GridSizes, jitter: Float[Tensor, "2 2"]) -> RotaryInputs:
    """Apply a sample of `CoordinateJitter`: shift the positions, stretch the frequencies."""
    positions = inputs.positions + jitter[0] * grids.current / 2
    return inputs._replace(
        positions=positions, frequencies=inputs.frequencies * _expand_axes(jitter[1], inputs.frequencies)
    )


def magnitude(frequencies: Float[Tensor, "2 *A P"]) -> Float[Tensor, "*A P"]:
    """Compute the magnitude of each pair's frequency; its gradient at 0 is 0."""
    squared = frequencies.square().sum(0)
    return squared.clamp(min=1e-30).sqrt()


#: Other names of the same methods, as transformers and language models call them.
_SYNONYMS = {"linear": "pi", "normalise": "normalize", "ntk_by_parts": "parts", "logn": "log"}

#: name -> method, as `parse_scaling` reads them; "entropy" is a variant of "log".
SCALING_METHODS: Mapping[str, ScalingMethod] = {
    method.name: method
    for method in (
        *(LinearScaling(), NormalizedCoordinates(), NTKScaling(), NTKByParts(), Yarn(), LogN()),
        CoordinateJitter(),
    )
} | {"entropy": LogN(power=0.5)}


def parse_override(text: str) -> str | None:
    """Parse the `--scaling` that replaces a model's own: "none" becomes None, no scaling."""
    return None if text == "none" else text


@dataclass(frozen=True)
class Scaling:
    """Scaling methods applied in order, for a model trained on a given grid.

    >>> inputs = parse_scaling("yarn", trained_grid=(14, 14))(grid_positions(28, 28), frequencies)

    Attributes:
        methods: Methods, in order of application.
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
        jitter: Float[Tensor, "2 2"] | None = None,
    ) -> RotaryInputs:
        """Compute positions, frequencies and attention factor for the tokens of a whole grid.

        Args:
            positions: Positions of all tokens of the grid, in patches; the outermost ones give its size.
            frequencies: Radians per patch.
            jitter: Sample of `sample_jitter` for this step; None in evaluation.
        """
        now = positions.flatten(0, -2).amax(0) - positions.flatten(0, -2).amin(0) + 1
        rows, columns = self.trained_grid
        grids = GridSizes(now, torch.stack([now.new_full((), columns), now.new_full((), rows)]))
        inputs = RotaryInputs(positions, frequencies)
        for method in self.methods:
            inputs = method(inputs, grids)
        return inputs if jitter is None else apply_jitter(inputs, grids, jitter)

    def sample_jitter(
        self, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "2 2"] | None:
        """Draw the jitter of one training step, the same for all layers; None without jitter."""
        jitter = next((method for method in self.methods if isinstance(method, CoordinateJitter)), None)
        return None if jitter is None else jitter.sample(device, generator)


def parse_scaling(text: str, trained_grid: tuple[int, int]) -> Scaling:
    """Parse scaling methods by name, in order of application: "ntk", "parts+log", "log+jitter(rescale=2)".

    Args:
        text: Names of SCALING_METHODS joined by +; options of a method in parentheses, separated by commas.
        trained_grid: Rows and columns of tokens that attended to each other in training.

    Raises:
        ValueError: If a method or option does not exist, a value is out of range, or a method is named twice.
    """
    methods = tuple(parse_method(part.strip()) for part in text.split("+"))
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise ValueError(f"got scaling={text!r}; name each scaling method once")
    return Scaling(methods, trained_grid)


def parse_method(text: str) -> ScalingMethod:
    """Parse one method with its options."""
    found = re.fullmatch(r"(\w+)(?:\((.*)\))?", text)
    name = _SYNONYMS.get(found[1], found[1]) if found else ""
    if found is None or name not in SCALING_METHODS:
        raise ValueError(f"no scaling method named {text!r}; choose from {', '.join(SCALING_METHODS)}, joined by +")
    method: Any = SCALING_METHODS[name]
    known: dict[str, Any] = asdict(method)
    options = {}
    for part in (found[2] or "").split(",") if found[2] else []:
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name not in known:
            raise ValueError(f"{found[1]} has no option {name!r}; choose from {', '.join(known) or 'none'}")
        try:
            options[name] = type(known[name])(value)
        except ValueError:
            raise ValueError(f"got {name}={value!r} for {found[1]}; expected a number") from None
    return replace(method, **options)
