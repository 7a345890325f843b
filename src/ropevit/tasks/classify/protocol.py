"""Evaluation protocols of classifiers: test sizes, resizing and cropping."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ropevit.models.architectures import Config
from ropevit.models.sizes import nearest_sizes

#: Protocol -> crop ratio (timm crop_pct); None takes that of the architecture (`config.crop_pct`).
#: Source: Heo et al. 2024 (arXiv:2403.13298), as DeiT III and Swin before; the defaults of timm.
_CROP_MODES = {"paper": None, "timm": 0.9}


@dataclass(frozen=True, kw_only=True)
class View:
    """Preprocessing and window size at one test size."""

    size: int
    """Side of the input in pixels."""
    crop: float
    """Crop ratio: `size` divided by the shorter side after resizing."""
    window: int | None
    """Side of a Swin's windows in tokens."""
    squash: bool = False
    """Resize the whole image to a square, without keeping its aspect ratio."""

    @property
    def resize(self) -> int:
        """Shorter side in pixels to which images are resized before the center crop."""
        return int(self.size / self.crop)

    def config_at(self, config: Config) -> Config:
        """Return the config of the model at this size, which its absolute embedding and bias tables are resized to."""
        fields: dict = {"img_size": (self.size, self.size)} if config.absolute else {}
        if self.window is not None:
            fields["window_size"] = self.window
        return replace(config, **fields)


def plan_views(
    config: Config, trained_at: int, sizes: Sequence[int], protocol: str, crop: float | None = None
) -> list[View]:
    """Return the preprocessing and window size at each test size.

    In the paper, the windows of a Swin grow with the size (7 tokens at 224, 12 at 384, rounded up); timm keeps the
    window size of the training.

    Args:
        config: Config of the model.
        trained_at: Its training size in pixels.
        sizes: Test sizes in pixels; empty for the default ones.
        protocol: `paper` or `timm`.
        crop: Crop ratio instead of the protocol's.

    Raises:
        ValueError: If a size is not a multiple of the patch size, or an argument is out of range.
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
    """Return the window size of a Swin at a test size, in tokens; None for a ViT."""
    if not config.windowed:
        return None
    return (config.at_size(size, trained_at) if protocol == "paper" else config).attention_grid[0]
