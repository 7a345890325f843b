"""Options of an evaluation; every field is an option of `ropevit eval`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from ropevit.device import check_device_name
from ropevit.tasks.evaluation.inference_modes import Baseline
from ropevit.tasks.registry import TASKS, TaskSpec
from ropevit.tasks.runs.run_dir import WeightsChoice, describe_task

OptionsT = TypeVar("OptionsT")


def read_sizes(words: Sequence[str]) -> tuple[int, ...]:
    """Read sizes with commas or spaces between them."""
    return tuple(map(int, split(words, str.isdecimal, "size", "pixels, such as --sizes 144,192,224")))


def read_ratios(words: Sequence[str]) -> tuple[float, ...]:
    """Read ratios with commas or spaces between them."""
    return tuple(map(float, split(words, _is_ratio, "ratio", "numbers, such as --ratios 0.5,0.75,1.0,1.25")))


def split(words: Sequence[str], check: Callable[[str], bool], what: str, expected: str) -> list[str]:
    """Split words at commas.

    Args:
        words: Words of the command line.
        check: Returns whether a part is valid.
        what: Name of a part in messages.
        expected: Expected parts in messages.

    Raises:
        ValueError: If a part is not valid.
    """
    parts = [part for word in words for part in word.split(",") if part]
    odd = [part for part in parts if not check(part)]
    if odd:
        raise ValueError(f"got {what} {odd[0]!r}; expected {expected}")
    return parts


def _is_ratio(word: str) -> bool:
    """Return whether a word is a plain number such as 2 or 0.75."""
    return word.replace(".", "", 1).isdecimal()


def numbers(read: Callable[[Sequence[str]], tuple[Any, ...]], metavar: str) -> Any:
    """Build tyro's parser of a list of numbers.

    Args:
        read: Parses the words.
        metavar: Placeholder in the help.
    """
    return tyro.constructors.PrimitiveConstructorSpec[tuple[Any, ...]](
        nargs="*",
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda values: [",".join(map(str, values))],
    )


SIZES, RATIOS = numbers(read_sizes, "PIXELS,PIXELS"), numbers(read_ratios, "RATIO,RATIO")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Model, data and settings of an evaluation.

    Raises:
        ValueError: If a field is out of range.
    """

    data: str
    """Classifier: `fashion` or `emoji`, the embedded images; a folder with `val/<class>/`, or with `<class>/` only;
    or WebDataset shards. Detector: a folder in the format of COCO. Segmenter: one in the format of ADE20K."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Classifier by name (see `ropevit models`), such as rope_mixed_deit_small_patch16_LS, or a variant such as
    deit_small (with its original position embedding). Evaluates the published weights unless --checkpoint is given."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|HUB-ID")] = None
    """Weights: a file, or the directory of a training run; classifiers also from the hub, and in any known layout."""
    weights: WeightsChoice | None = None
    """Which weights in the directory of a training run: best (default), last, or ema (their moving average)."""
    sizes: Annotated[tuple[int, ...], SIZES] = ()
    """Test sizes in pixels, separated by commas or spaces: the shorter side for detectors and segmenters.
    Default: the paper's, or the same multiples of the training size."""
    out: Path | None = None
    """Output directory; default: runs/eval/NAME, then runs/eval/NAME-2, ...; with --resume the last of them."""
    resume: bool = False
    """Evaluate the sizes that are missing in the output directory."""
    compare_with: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR [DIR ...]")] = ()
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
    model's own; `none` disables scaling; `auto` is what `ropevit tune-scaling` chose. Not for detectors.
    See docs/scaling.md."""
    baselines: tuple[Baseline, ...] = ()
    """Also evaluate each size in other inference modes, which need no position embedding for it. tiles: in tiles of the
    training size; resize: resized to it. Drawn dashed, with their tokens per image beside the score."""
    options: Annotated[Any, tyro.conf.Suppress] = None
    """Options of the model's task alone, such as `SegmenterOptions`; None for its defaults."""

    def __post_init__(self):
        check_device_name(self.device)
        if (self.batch_size is not None and self.batch_size < 1) or self.workers < 0:
            raise ValueError(
                f"got batch_size={self.batch_size}, workers={self.workers}; expected 1 or more, and 0 or more"
            )
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError(f"got baselines {', '.join(self.baselines)}; name each once")

    def check(self, task: TaskSpec) -> None:
        """Refuse options that the model's task does not have.

        Raises:
            ValueError: If an option of another task, or one that this task refuses, is given.
        """
        model = describe_task(task, self.checkpoint)
        if self.options is not None and (given := given_options(self.options)):
            owners = [
                each for each in TASKS.values() if each.eval_options and each.get("eval_options") is type(self.options)
            ]
            if task not in owners:
                nouns = " and ".join(f"{each.noun}s" for each in owners)
                raise ValueError(f"got {', '.join(given)}, for {nouns} only, with a {model}; leave it out")
        check_baselines(self.baselines, task, model)
        for name, reason in task.eval_refused.items():
            if (value := getattr(self, name)) is not None:
                raise ValueError(f"got {option(name)} {value} with a {model}; {reason}: leave it out")

    def task_options(self, options_type: type[OptionsT]) -> OptionsT:
        """Return the options of a task, or their defaults if none are given."""
        return self.options if isinstance(self.options, options_type) else options_type()


def check_baselines(given: Sequence[str], task: TaskSpec, model: str) -> None:
    """Raise ValueError for inference modes that a task does not offer.

    Args:
        given: The inference modes.
        task: The task.
        model: What its model is called in messages.
    """
    if odd := [mode for mode in given if mode not in task.baselines]:
        offered = f"only {' and '.join(task.baselines)}" if task.baselines else "none"
        raise ValueError(f"got --baselines {odd[0]} with a {model}, which offers {offered}: leave it out")


def given_options(group: Any) -> list[str]:
    """Return the command-line options of the fields that differ from their defaults."""
    return [option(each.name) for each in fields(group) if getattr(group, each.name) != each.default]


def option(name: str) -> str:
    """Return the command-line option of a field."""
    return f"--{name.replace('_', '-')}"
