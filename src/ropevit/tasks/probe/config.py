"""Options of `ropevit probe`."""

from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ropevit.tasks.classify.evaluate import ClassifierOptions
from ropevit.tasks.evaluation.config import SIZES, EvalConfig, option
from ropevit.tasks.evaluation.inference_modes import Baseline
from ropevit.tasks.runs.run_dir import WeightsChoice

#: How the features of an image are pooled: as the model's own head does, mean of the patches, or both concatenated.
Pooling = Literal["model", "mean", "both"]

#: Options for images of classes only, and for images with masks only.
_CLASSES_ONLY = ("pooling", "neighbors", "temperature", "protocol", "crop_pct", "batch_size")
_MASKS_ONLY = ("max_patches",)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Model, images, sizes and protocol of the probes.

    Raises:
        ValueError: If a field is out of range.
    """

    data: str
    """Labeled images: a folder with `train/<class>/` and `val/<class>/`, or with `<class>/` only (a fifth of each class
    is for testing); `fashion` or `emoji`, the embedded images; WebDataset shards; or images with masks in the format of
    ADE20K, of which the features of patches are measured."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Model by name (see `ropevit models`). Loads the published weights unless --checkpoint is given."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|HUB-ID")] = None
    """Weights: a file or hub id in any known layout, or the directory of a training run; with or without a head."""
    weights: WeightsChoice | None = None
    """Which weights in the directory of a training run: best (default), last, or ema (their moving average)."""
    sizes: Annotated[tuple[int, ...], SIZES] = ()
    """Image sizes in pixels, separated by commas or spaces; the training size is always added, as the reference.
    Default: the sizes of `ropevit eval`."""
    scaling: Annotated[tuple[str, ...], tyro.conf.arg(metavar="METHOD [METHOD ...]")] = ()
    """RoPE scaling methods, such as none pi parts+log; `auto` is what `ropevit tune-scaling` chose. Default: the
    model's own, or none. See docs/scaling.md."""
    baselines: tuple[Baseline, ...] = ("tiles", "resize")
    """Inference modes that need no position embedding for larger images. tiles: features averaged over tiles of the
    training size; resize: images resized to it. Give --baselines without a value for neither."""
    pooling: Pooling = "model"
    """Features of an image. model: what a head would read, such as the class token; mean: the mean patch; both: one
    behind the other."""
    neighbors: int = 20
    """Number of nearest neighbors, k."""
    temperature: float = 0.07
    """Temperature of their votes, exp(cosine similarity / temperature)."""
    max_patches: int = 10_000
    """Images with masks only: largest number of training patches, as many of each image; bounds memory and time."""
    max_images: int | None = None
    """Largest number of images of each split, a fixed random subset, for training with every class; default: all."""
    seed: int = 0
    """Seed of the subsets and of the validation part."""
    out: Path | None = None
    """Output directory; default: runs/probe/NAME."""
    resume: bool = False
    """Keep the results in the output directory, and measure what is missing."""
    protocol: Literal["paper", "timm"] | None = None
    """Resizing and crop, as in `ropevit eval`; default: paper, or that of the model's family."""
    crop_pct: float | None = None
    """Crop ratio instead of the protocol's."""
    batch_size: int | None = None
    """Images per batch; default: 128."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast; weights and rotation angles stay float32."""
    workers: int = 4
    """DataLoader workers; 0 reads images in the process itself."""
    device: str = "auto"
    """auto (an accelerator if available, else the CPU), cpu, cuda, cuda:N, mps or xpu."""

    def __post_init__(self):
        for name in ("scaling", "baselines"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"got {name} {' '.join(given)}; name each once")
        if self.neighbors < 1 or self.temperature <= 0:
            raise ValueError(
                f"got neighbors={self.neighbors} and temperature={self.temperature}; expected 1 or more, and above 0"
            )
        if self.max_images is not None and self.max_images < 1:
            raise ValueError(f"got max_images={self.max_images}; expected 1 or more")
        if self.max_patches < 1:
            raise ValueError(f"got max_patches={self.max_patches}; expected 1 or more, better thousands")
        self.eval_config()

    def check_options(self, masks: bool) -> None:
        """Refuse options that the data do not take.

        Args:
            masks: Whether the images have masks, not classes.

        Raises:
            ValueError: If one is given.
        """
        names = _CLASSES_ONLY if masks else _MASKS_ONLY
        if given := [option(each.name) for each in fields(self) if each.name in names and self._differs(each)]:
            what = "images with masks" if masks else "images of classes"
            raise ValueError(f"got {', '.join(given)} for {self.data}, which holds {what}; leave it out")

    def _differs(self, field: Field) -> bool:
        """Return whether a field has another value than its default."""
        return getattr(self, field.name) != field.default

    def eval_config(self) -> EvalConfig:
        """Return the options that an evaluation of the same model shares."""
        names = ("data", "model", "checkpoint", "weights", "sizes", "batch_size", "precision", "workers", "device")
        options = ClassifierOptions(protocol=self.protocol, crop_pct=self.crop_pct)
        return EvalConfig(**{name: getattr(self, name) for name in names}, options=options)
