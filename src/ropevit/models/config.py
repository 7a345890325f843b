"""What the configs of all architectures share: their fields and checks, and what names of position embeddings mean."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple


class PositionEmbedding(NamedTuple):
    """What a name of a position embedding stands for."""

    rope: Literal["axial", "mixed"] | None
    """Rotation with fixed (axial) or learned (mixed) frequencies."""
    absolute: bool = False
    """A learned vector for each patch."""
    bias: bool = False
    """A learned score for each difference of positions in a window."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Fields and checks of all architectures; each adds its own.

    Raises:
        ValueError: If a field is out of range or two fields do not fit.
    """

    embeddings: ClassVar[Mapping[str, PositionEmbedding]]
    """The position embeddings that the architecture has, by name."""
    published_theta: ClassVar[Mapping[str, float]]
    """Base of the frequencies of published models, by kind of rotation."""

    position: str
    """Name of the position embedding, one of `embeddings`."""
    img_size: tuple[int, int] = (224, 224)
    """Height and width in pixels for which an absolute embedding is learned; any size may be fed."""
    in_channels: int = 3
    """Channels of the image."""
    num_classes: int = 1000
    """Classes, K; 0 leaves the head out."""
    mlp_ratio: float = 4.0
    """Hidden channels of the MLP over those of a token."""
    drop_path: float = 0.0
    """Rate of stochastic depth."""
    rope_theta: float | None = None
    """Base of the frequencies; None takes that of the published models."""
    ape_std: float = 0.02
    """Standard deviation of the absolute embedding at the start."""

    def __post_init__(self):
        object.__setattr__(self, "img_size", as_pair(self.img_size))
        self.check_choice("position", self.embeddings)
        self.check_least(in_channels=1, num_classes=0)
        if not self.mlp_ratio > 0 or self.ape_std < 0:
            raise ValueError(f"got mlp_ratio={self.mlp_ratio}, ape_std={self.ape_std}; expected above 0, and 0 or more")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"got drop_path={self.drop_path}; expected a rate from 0 to below 1")
        if self.rope_theta is not None and (self.rope is None or not self.rope_theta > 0):
            raise ValueError(
                f"got rope_theta={self.rope_theta} for {self.position}; expected None or, with rotation, above 0"
            )

    def check_choice(self, field: str, allowed: Collection[str]) -> None:
        """Refuse a name that stands for nothing."""
        if getattr(self, field) not in allowed:
            raise ValueError(f"got {field}={getattr(self, field)!r}; expected one of {', '.join(allowed)}")

    def check_least(self, **least: int) -> None:
        """Refuse counts below the least with which a model can be built."""
        for field, minimum in least.items():
            if getattr(self, field) < minimum:
                raise ValueError(f"got {field}={getattr(self, field)}; expected at least {minimum}")

    @property
    def rope(self) -> Literal["axial", "mixed"] | None:
        """Kind of rotation, if any."""
        return self.embeddings[self.position].rope

    @property
    def absolute(self) -> bool:
        """Whether there is an absolute embedding."""
        return self.embeddings[self.position].absolute

    @property
    def bias(self) -> bool:
        """Whether there are relative position biases."""
        return self.embeddings[self.position].bias

    @property
    def theta(self) -> float:
        """Base of the frequencies: the config's, or the published one of its kind."""
        return self.rope_theta or self.published_theta[self.rope or "mixed"]


def as_pair(size: int | Sequence[int]) -> tuple[int, int]:
    """Read the side of a square, or height and width.

    Raises:
        ValueError: If it is neither.
    """
    pair = (size, size) if isinstance(size, int) else tuple(int(side) for side in size)
    if len(pair) != 2:
        raise ValueError(f"got img_size={size}; expected one side, or height and width")
    return pair[0], pair[1]
