"""What an evaluation can be told; every field is an option of `ropevit eval`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from ropevit.device import check_device_name
from ropevit.tasks.common.run_dir import TaskName, Which, describe_task

#: What can be measured: the kinds of models, each with a group of options that the others refuse.
KINDS: tuple[TaskName, ...] = get_args(TaskName)


def read_sizes(words: Sequence[str]) -> tuple[int, ...]:
    """Read sizes with commas or spaces between them."""
    return tuple(map(int, split(words, str.isdecimal, "size", "pixels, such as --sizes 144,192,224")))


def read_ratios(words: Sequence[str]) -> tuple[float, ...]:
    """Read ratios with commas or spaces between them."""
    return tuple(map(float, split(words, is_ratio, "ratio", "numbers, such as --ratios 0.5,0.75,1.0,1.25")))


def split(words: Sequence[str], check: Callable[[str], bool], what: str, expected: str) -> list[str]:
    """Split words at commas, and refuse what is no number."""
    parts = [part for word in words for part in word.split(",") if part]
    odd = [part for part in parts if not check(part)]
    if odd:
        raise ValueError(f"got {what} {odd[0]!r}; expected {expected}")
    return parts


def is_ratio(word: str) -> bool:
    """Tell whether a word is a plain number such as 2 or 0.75."""
    return word.replace(".", "", 1).isdecimal()


def numbers(read: Callable[[Sequence[str]], tuple[Any, ...]], metavar: str) -> Any:
    """Say how the command line reads and shows a list of numbers."""
    return tyro.constructors.PrimitiveConstructorSpec[tuple[Any, ...]](
        nargs="*",
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda values: [",".join(map(str, values))],
    )


SIZES, RATIOS = numbers(read_sizes, "PIXELS,PIXELS"), numbers(read_ratios, "RATIO,RATIO")

#: A flag that is there or not.
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions:
    """Of classifiers alone."""

    protocol: Literal["paper", "timm"] | None = None
    """paper (also if left out): crop ratio 1 for ViT; 0.875 and windows that grow with the size for Swin.
    timm: 0.9, and windows as trained."""
    crop: float | None = None
    """Size as a share of the resized shorter side, instead of the protocol's."""
    real: Path | None = None
    """ReaL labels of ImageNet's validation images, a JSON file: any label of an image counts, none leaves it out."""


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Of detectors alone."""

    save_detections: Flag = False
    """Write what is found at each size to detections-SIZE.json, in COCO's format for results."""


@dataclass(frozen=True, kw_only=True)
class SegmenterOptions:
    """Of segmenters alone.

    Raises:
        ValueError: If a field is out of range.
    """

    whole: Flag = False
    """Look at whole images, also where the file says windows."""
    window: int | None = None
    """Side in pixels of windows that slide over an image, instead of what the file says."""
    stride: int | None = None
    """Pixels from one window to the next, instead of what the file says, or two thirds of --window."""
    flip: Flag = False
    """Look at the mirror image, too."""
    ratios: Annotated[tuple[float, ...], RATIOS] = ()
    """Look at the image at several sizes at once: at each test size times these ratios."""

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
    """What is measured on what, and how.

    Raises:
        ValueError: If a field is out of range.
    """

    data: str
    """Of a classifier: `fashion`, the embedded images; a folder with val/<class>/*, or with <class>/* alone; or shards.
    Of a detector: a folder as COCO unpacks. Of a segmenter: one as ADE20K does."""
    model: str | None = None
    """Name of a classifier; its published weights are measured unless a checkpoint is given."""
    checkpoint: str | None = None
    """Weights: a file, or the directory of a training; of a classifier a file or hub id of any layout."""
    which: Which | None = None
    """Weights of a training's directory: best (unless told otherwise), last, or ema, their moving average."""
    sizes: Annotated[tuple[int, ...], SIZES] = ()
    """Test sizes in pixels, with commas or spaces between them; of a detector or segmenter the shorter side.
    If left out, the paper's, or such in proportion to the training's."""
    out: Path | None = None
    """Directory for the results; runs/eval/NAME if left out."""
    resume: bool = False
    """Measure the sizes that the directory lacks."""
    beside: tuple[Path, ...] = ()
    """Directories of other evaluations on the same data, whose curves are drawn beside this one."""
    batch_size: int | None = None
    """Images of a batch of each process: 128 of a classifier and 1 of a detector if left out; not for segmenters."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 multiplies matrices in it; weights and angles stay float32."""
    workers: int = 4
    """Processes that read images, for each measuring process; 0 reads in the measuring process itself."""
    device: str = "auto"
    """auto (the accelerator that there is, else the CPU), cpu, cuda, cuda:N, mps or xpu."""
    scaling: str | None = None
    """Rules for grids or windows larger than in training, such as pi, ntk or parts+log, instead of those that the model
    was trained with, if any; none measures it without. Not for detectors. See docs/scaling.md."""
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
        """Refuse options of other kinds of models.

        Args:
            kind: What is measured.

        Raises:
            ValueError: Naming the options and whose they are.
        """
        for other in KINDS:
            group = getattr(self, other)
            given = [option(each.name) for each in fields(group) if getattr(group, each.name) != each.default]
            if other != kind and given:
                told = describe_task(kind, self.checkpoint)
                raise ValueError(f"got {', '.join(given)}, for {other}s alone, with a {told}; leave it out")
        if self.model is not None and kind != "classifier":
            raise ValueError(f"{self.checkpoint} is a {kind} and knows its model; leave out --model {self.model}")
        if self.scaling is not None and kind == "detector":
            raise ValueError(
                f"got scaling={self.scaling!r}; a detector is trained at many sizes, most of its blocks in windows, so "
                "there is no one grid from which rules count: leave it out"
            )
        if self.batch_size is not None and kind == "segmenter":
            raise ValueError(f"got batch_size={self.batch_size}; a segmenter takes images one by one: leave it out")


def option(name: str) -> str:
    """Name a field as the command line does."""
    return f"--{name.replace('_', '-')}"
