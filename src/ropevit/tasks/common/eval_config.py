"""Options of an evaluation; every field is an option of `ropevit eval`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from ropevit.device import check_device_name
from ropevit.tasks.common.run_dir import TaskName, Which, describe_task

#: The tasks, each with a group of options that the others refuse.
KINDS: tuple[TaskName, ...] = get_args(TaskName)

#: Field -> its option, where the names differ; eval.json keeps the names of the fields.
OPTION_NAMES = {"which": "weights", "beside": "compare-with", "crop": "crop-pct", "real": "real-labels"}


def read_sizes(words: Sequence[str]) -> tuple[int, ...]:
    """Read sizes with commas or spaces between them."""
    return tuple(map(int, split(words, str.isdecimal, "size", "pixels, such as --sizes 144,192,224")))


def read_ratios(words: Sequence[str]) -> tuple[float, ...]:
    """Read ratios with commas or spaces between them."""
    return tuple(map(float, split(words, is_ratio, "ratio", "numbers, such as --ratios 0.5,0.75,1.0,1.25")))


def split(words: Sequence[str], check: Callable[[str], bool], what: str, expected: str) -> list[str]:
    """Split words at commas, and refuse those that are not numbers."""
    parts = [part for word in words for part in word.split(",") if part]
    odd = [part for part in parts if not check(part)]
    if odd:
        raise ValueError(f"got {what} {odd[0]!r}; expected {expected}")
    return parts


def is_ratio(word: str) -> bool:
    """Tell whether a word is a plain number such as 2 or 0.75."""
    return word.replace(".", "", 1).isdecimal()


def numbers(read: Callable[[Sequence[str]], tuple[Any, ...]], metavar: str) -> Any:
    """Return how the command line parses and prints a list of numbers."""
    return tyro.constructors.PrimitiveConstructorSpec[tuple[Any, ...]](
        nargs="*",
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda values: [",".join(map(str, values))],
    )


SIZES, RATIOS = numbers(read_sizes, "PIXELS,PIXELS"), numbers(read_ratios, "RATIO,RATIO")

#: A flag without a --no- form.
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """Classifiers only."""

    protocol: Literal["paper", "timm"] | None = None
    """paper (default): crop ratio 1 for ViT; 0.875, and windows that grow with the image size, for Swin.
    timm: crop ratio 0.9, and windows of the training size."""
    crop: Annotated[float | None, tyro.conf.arg(name=OPTION_NAMES["crop"])] = None
    """Crop ratio instead of the protocol's: the test size over the shorter side to which images are resized."""
    real: Annotated[Path | None, tyro.conf.arg(name=OPTION_NAMES["real"])] = None
    """ReaL labels of the ImageNet validation set, a JSON file: any of an image's labels is correct; images without
    labels are skipped."""


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Detectors only."""

    save_detections: Flag = False
    """Write the detections at each size to detections-SIZE.json, in the COCO results format."""


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions:
    """Segmenters only.

    Raises:
        ValueError: If a field is out of range.
    """

    whole: Flag = False
    """Predict on whole images, even if the model's file says sliding windows."""
    window: int | None = None
    """Side in pixels of the sliding window, instead of the one in the model's file."""
    stride: int | None = None
    """Stride of the sliding window in pixels, instead of the one in the model's file, or two thirds of --window."""
    flip: Flag = False
    """Test-time augmentation: average with the horizontally flipped image."""
    ratios: Annotated[tuple[float, ...], RATIOS] = ()
    """Test-time augmentation: average over the image at each test size times these ratios."""

    def __post_init__(self):
        if self.whole and (self.window is not None or self.stride is not None):
            raise ValueError("got --whole with --window or --stride; whole images have no windows: leave one out")
        for name in ("window", "stride"):
            if (side := getattr(self, name)) is not None and side < 1:
                raise ValueError(f"got {name}={side}; expected at least 1 pixel")
        if not all(ratio > 0 for ratio in self.ratios) or len(set(self.ratios)) < len(self.ratios):
            raise ValueError(f"got ratios={self.ratios}; expected each above 0, and none twice")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Model, data and settings of an evaluation.

    Raises:
        ValueError: If a field is out of range.
    """

    data: str
    """Classifier: `fashion`, the embedded Fashion-MNIST images; a folder with `val/<class>/`, or with `<class>/` only;
    or WebDataset shards. Detector: a folder in the layout of COCO. Segmenter: one in the layout of ADE20K."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Classifier by name (see `ropevit models`), such as rope_mixed_deit_small_patch16_LS, or a variant such as
    deit_small (with its original position embedding). Evaluates the published weights unless --checkpoint is given."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|HUB-ID")] = None
    """Weights: a file, or the directory of a training; classifiers also from the hub, and in any known layout."""
    which: Annotated[Which | None, tyro.conf.arg(name=OPTION_NAMES["which"])] = None
    """Which weights in the directory of a training: best (default), last, or ema (their moving average)."""
    sizes: Annotated[tuple[int, ...], SIZES] = ()
    """Test sizes in pixels, separated by commas or spaces: the shorter side for detectors and segmenters.
    Default: the paper's, or the same multiples of the training size."""
    out: Path | None = None
    """Output directory; default: runs/eval/NAME."""
    resume: bool = False
    """Evaluate the sizes that are missing in the output directory."""
    beside: Annotated[tuple[Path, ...], tyro.conf.arg(name=OPTION_NAMES["beside"], metavar="DIR [DIR ...]")] = ()
    """Output directories of other evaluations on the same data, whose curves are drawn in the same plot."""
    batch_size: int | None = None
    """Images per batch and process; default: 128 for classifiers, 1 for detectors. Segmenters always take 1."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast; weights and rotation angles stay float32."""
    workers: int = 4
    """DataLoader workers of each process; 0 reads images in the process itself."""
    device: str = "auto"
    """auto (an accelerator if available, else the CPU), cpu, cuda, cuda:N, mps or xpu."""
    scaling: str | None = None
    """RoPE scaling methods for grids or windows larger than in training, such as pi, ntk or parts+log, instead of the
    model's own; `none` disables scaling. Not for detectors. See docs/scaling.md."""
    classifier: tyro.conf.OmitArgPrefixes[ClassifierOptions] = field(default_factory=ClassifierOptions)
    detector: tyro.conf.OmitArgPrefixes[DetectorOptions] = field(default_factory=DetectorOptions)
    segmenter: tyro.conf.OmitArgPrefixes[SegmenterOptions] = field(default_factory=SegmenterOptions)

    def __post_init__(self):
        check_device_name(self.device)
        if (self.batch_size is not None and self.batch_size < 1) or self.workers < 0:
            raise ValueError(
                f"got batch_size={self.batch_size}, workers={self.workers}; expected 1 or more, and 0 or more"
            )

    def check(self, kind: TaskName) -> None:
        """Refuse options of other tasks.

        Args:
            kind: Task of the model.

        Raises:
            ValueError: If an option of another task is given.
        """
        for other in KINDS:
            group = getattr(self, other)
            given = [option(each.name) for each in fields(group) if getattr(group, each.name) != each.default]
            if other != kind and given:
                told = describe_task(kind, self.checkpoint)
                raise ValueError(f"got {', '.join(given)}, for {other}s only, with a {told}; leave it out")
        if self.model is not None and kind != "classifier":
            raise ValueError(f"{self.checkpoint} is a {kind} and knows its model; leave out --model {self.model}")
        if self.scaling is not None and kind == "detector":
            raise ValueError(
                f"got scaling={self.scaling!r}; a detector is trained at many sizes, most of its blocks in windows, so "
                "there is no single grid to scale from: leave it out"
            )
        if self.batch_size is not None and kind == "segmenter":
            raise ValueError(f"got batch_size={self.batch_size}; a segmenter takes images one by one: leave it out")


def option(name: str) -> str:
    """Return the command-line option of a field."""
    return f"--{OPTION_NAMES.get(name, name.replace('_', '-'))}"
