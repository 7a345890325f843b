"""Base config of all architectures: shared fields, their checks, and derived properties (grids, sizes, RoPE)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ropevit.arithmetic import ceil_div
from ropevit.models.positions import PositionEmbedding
from ropevit.rope.scaling import Scaling, parse_scaling
from ropevit.rope.types import ROPE_TYPES

#: Default evaluation sizes of a model that was trained on other images than the paper's, in sevenths of its own size.
_SEVENTHS = (4, 5, 6, 7, 8, 10, 12, 16)
#: Models trained at this size in pixels or above are evaluated at the paper's sizes by default.
LARGE = 192


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Base config of all architectures; each adds its own fields, among them width, heads and patch_size.

    Raises:
        ValueError: If a field is out of range or two fields contradict each other.
    """

    embeddings: ClassVar[Mapping[str, PositionEmbedding]]
    """Position embeddings of the architecture, by name."""
    crop_pct: ClassVar[float] = 0.875
    """Center crop fraction with which published models of the architecture are evaluated."""
    paper_sizes: ClassVar[tuple[int, ...]] = ()
    """Sizes in pixels at which published models of the architecture were evaluated."""
    dense_fields: ClassVar[Mapping[str, object]] = {}
    """Config fields that a dense backbone overrides in its body."""
    later_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that older files lack; files leave them out where they have their default."""
    is_other_family: ClassVar[bool] = False
    """Whether it belongs to another family than the paper's models (docs/pretrained.md), with its own convention."""
    windowed: ClassVar[bool] = False
    """Whether tokens attend inside windows of `window_size` x `window_size` tokens."""
    if TYPE_CHECKING:  # declared by each architecture, in its own order, which files keep
        width: int
        heads: int | tuple[int, ...]
        patch_size: int
    position: str
    """Name of the position embedding, one of `embeddings`."""
    img_size: tuple[int, int] = (224, 224)
    """Height and width in pixels for which an absolute embedding is learned; inputs may have any size."""
    in_channels: int = 3
    """Channels of the image."""
    num_classes: int = 1000
    """Number of classes, K; 0 for no head."""
    mlp_ratio: float = 4.0
    """Hidden channels of the MLP over those of a token."""
    drop_path: float = 0.0
    """Rate of stochastic depth."""
    rope_theta: float | None = None
    """Base of the frequencies; None for that of the published models."""
    ape_std: float = 0.02
    """Standard deviation of the initial absolute embedding."""
    scaling: str | None = None
    """RoPE scaling for grids larger than the trained one, such as "ntk" or "parts+log"; see `ropevit.rope.scaling`."""
    trained_grid: tuple[int, int] | None = None
    """Rows and columns of tokens that attended to each other in training, the reference of RoPE scaling; None for those
    of `img_size` (or of a window)."""

    @property
    def num_features(self) -> int:
        """Channels of the last features, which the head takes."""
        return self.width

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
        if self.scaling is not None:
            if self.rope is None:
                raise ValueError(f"got scaling={self.scaling!r} for {self.position}, which has no RoPE; remove scaling")
            parse_scaling(self.scaling, (1, 1))
        if self.trained_grid is not None:
            object.__setattr__(self, "trained_grid", as_pair(self.trained_grid, "trained_grid"))
            if min(self.trained_grid) < 1:
                raise ValueError(f"got trained_grid={self.trained_grid}; expected rows and columns, above 0")

    def check_choice(self, field: str, allowed: Collection[str]) -> None:
        """Raise ValueError unless a field is one of the allowed names."""
        if getattr(self, field) not in allowed:
            raise ValueError(f"got {field}={getattr(self, field)!r}; expected one of {', '.join(allowed)}")

    def check_least(self, **least: int) -> None:
        """Raise ValueError unless fields are whole numbers of at least a minimum."""
        for field, minimum in least.items():
            value = getattr(self, field)
            if not isinstance(value, Integral):
                raise ValueError(f"got {field}={value!r}; expected a whole number, such as {max(1, minimum)}")
            if value < minimum:
                raise ValueError(f"got {field}={value}; expected at least {minimum}")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as files hold them."""
        defaults = {field.name: field.default for field in fields(self) if field.name in self.later_fields}
        omitted = {name for name, default in defaults.items() if getattr(self, name) == default}
        return {name: value for name, value in asdict(self).items() if name not in omitted}

    @property
    def multiple(self) -> int:
        """Number of pixels that must divide both sides of an image."""
        return self.patch_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches for which an absolute embedding is learned."""
        return ceil_div(self.img_size[0], self.patch_size), ceil_div(self.img_size[1], self.patch_size)

    @property
    def attention_grid(self) -> tuple[int, int]:
        """Rows and columns of tokens that attend to each other in an image of `img_size`."""
        return self.grid

    @property
    def example_size(self) -> tuple[int, int]:
        """Height and width in pixels of a generic test image: not square, several patches along each side."""
        return 5 * self.multiple, 7 * self.multiple

    def input_shape(self, height: int, width: int) -> tuple[int, ...]:
        """Return the shape of one input of a size in pixels, without the batch."""
        return self.in_channels, height, width

    def at_size(self, size: int | Sequence[int], trained_at: int | None = None) -> "ModelConfig":  # noqa: ARG002 (windows ask)
        """Return the config for evaluation at another image size, as in the paper.

        Args:
            size: Side of a square, or height and width, in pixels.
            trained_at: Training size in pixels; None for the smaller side of `img_size`.
        """
        return replace(self, img_size=as_pair(size))

    def default_sizes(self, trained_at: int) -> list[int]:
        """Return evaluation sizes around the training size: the paper's, or scaled for smaller models."""
        if trained_at >= LARGE and self.paper_sizes and not any(size % self.multiple for size in self.paper_sizes):
            return list(self.paper_sizes)
        step = self.patch_size
        return sorted({max(step, round(part * trained_at / 7 / step) * step) for part in _SEVENTHS})

    @property
    def is_video(self) -> bool:
        """Whether the model takes clips (B, c, T, H, W) rather than images."""
        return False

    @property
    def pairs_per_axis(self) -> tuple[int, ...] | None:
        """Pairs of a head for each axis, x first; None for an equal split between x and y."""
        return None

    @property
    def scaling_methods(self) -> Scaling | None:
        """The scaling methods that `scaling` names."""
        return None if self.scaling is None else parse_scaling(self.scaling, self.trained_grid or self.attention_grid)

    @property
    def rope(self) -> str | None:
        """Type of the rotary embedding, a name of `ropevit.rope.ROPE_TYPES`, if any."""
        return self.embeddings[self.position].rope

    @property
    def learns_rope(self) -> bool:
        """Whether the frequencies are learned."""
        return self.rope is not None and ROPE_TYPES[self.rope].learned

    @property
    def absolute(self) -> bool:
        """Whether the model has an absolute embedding."""
        return self.embeddings[self.position].absolute

    @property
    def bias(self) -> bool:
        """Whether the model has relative position biases."""
        return self.embeddings[self.position].bias

    @property
    def distance(self) -> str | None:
        """Type of the distance bias, a name of `ropevit.rope.DISTANCE_BIAS_TYPES`, if any."""
        return self.embeddings[self.position].distance

    @property
    def theta(self) -> float:
        """Base of the frequencies: the config's, or the default of its rope type."""
        return self.rope_theta or self.default_theta(self.rope or "mixed")

    @classmethod
    def default_theta(cls, rope_type: str) -> float:
        """Base of the frequencies of a rope type in this architecture."""
        row = ROPE_TYPES[rope_type]
        return row.window_theta if cls.windowed else row.theta


class Preprocessing(NamedTuple):
    """Preprocessing of images for the evaluation of pretrained weights; all are resized bicubically, antialiased."""

    mean: tuple[float, float, float] | None = None
    """Mean of each channel, for pixels from 0 to 1; None: ImageNet's."""
    std: tuple[float, float, float] | None = None
    """Standard deviation of each channel; None: ImageNet's."""
    crop: float | None = None
    """Crop ratio; None: that of the architecture."""
    squash: bool = False
    """Resize the whole image to a square, without keeping its aspect ratio."""


class Variant(NamedTuple):
    """A size of an architecture, whose models differ only in the position embedding."""

    fields: Mapping[str, Any]
    """Config fields, except position."""
    names: Mapping[str, str]
    """Position embedding -> name of the model."""
    original: str
    """Position embedding of the model that the variant name alone stands for."""
    published: Collection[str] = ()
    """Position embeddings whose weights are on the hub."""
    hub: str | None = None
    """Account on the hub that holds them, as ACCOUNT/NAME, or ACCOUNT/NAME.TAG; needed if there are any."""
    tag: str | None = None
    """Tag of the weights in their hub id, where a model has several."""
    license: str | None = None
    """License of the published weights, as the hub spells it."""
    preprocessing: Preprocessing = Preprocessing()
    """Preprocessing for the pretrained weights."""
    other_preprocessing: Mapping[str, Preprocessing] = {}
    """Preprocessing for other weights of these models, by a part of their hub id or file name."""


def as_pair(size: int | Sequence[int], name: str = "img_size") -> tuple[int, int]:
    """Return height and width from one side of a square or from a pair.

    Raises:
        ValueError: If it is neither.
    """
    pair = (size, size) if isinstance(size, int) else tuple(int(side) for side in size)
    if len(pair) != 2:
        raise ValueError(f"got {name}={size}; expected one side, or height and width")
    return pair[0], pair[1]
