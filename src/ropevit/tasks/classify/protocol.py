"""At which sizes a classifier is measured, and how images are brought there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ropevit.models.architectures import Config
from ropevit.models.sizes import nearest_sizes

#: Protocol -> part of the shorter side that is evaluated; None takes that of the architecture (`config.crop_pct`).
#: Source: Heo et al. 2024 (arXiv:2403.13298), as DeiT III and Swin before; the defaults of timm.
_CROP_MODES = {"paper": None, "timm": 0.9}


@dataclass(frozen=True, kw_only=True)
class View:
    """How images become a model's input at one size."""

    size: int
    """Side of the input in pixels."""
    crop: float
    """`size` as a share of the shorter side after resizing."""
    window: int | None
    """Side of a Swin's windows in tokens."""

    @property
    def resize(self) -> int:
        """Shorter side in pixels to which images are resized, before the middle is cut out."""
        return int(self.size / self.crop)

    def fit(self, config: Config) -> Config:
        """Give the config of the model for this size: absolute embeddings and bias tables are made for it."""
        fields: dict = {"img_size": (self.size, self.size)} if config.absolute else {}
        if self.window is not None:
            fields["window_size"] = self.window
        return replace(config, **fields)


def plan_views(
    config: Config, trained_at: int, sizes: Sequence[int], protocol: str, crop: float | None = None
) -> list[View]:
    """Plan at which sizes a model is measured, and how.

    The windows of a Swin grow with the size in the paper (7 tokens at 224, 12 at 384, rounded up); timm leaves it
    those that it was trained with.

    Args:
        config: The model.
        trained_at: Its training size in pixels.
        sizes: Sizes in pixels; empty for the default ones.
        protocol: `paper` or `timm`.
        crop: Another part of the shorter side to look at.

    Raises:
        ValueError: If patches do not tile a size, or an argument is out of range.
    """
    if protocol not in _CROP_MODES:
        raise ValueError(f"got protocol {protocol!r}; choose one of {', '.join(_CROP_MODES)}")
    if crop is not None and not 0 < crop <= 1:
        raise ValueError(f"got crop={crop}; expected above 0, up to 1")
    chosen = sorted(set(sizes or config.default_sizes(trained_at)))
    for size in chosen:
        if size < 1 or size % config.multiple:
            near = nearest_sizes(size, config.multiple) if size > 0 else config.multiple
            raise ValueError(f"got size {size}, which patches of {config.multiple} pixels do not tile; take {near}")
    ratio = crop or _CROP_MODES[protocol] or config.crop_pct
    return [View(size=size, crop=ratio, window=_window_at(config, trained_at, size, protocol)) for size in chosen]


def _window_at(config: Config, trained_at: int, size: int, protocol: str) -> int | None:
    """Give the windows of a Swin at a size, in tokens; a ViT has none."""
    if not config.windowed:
        return None
    return (config.at_size(size, trained_at) if protocol == "paper" else config).attention_grid[0]
