"""`ropevit predict`: classes, boxes or label maps of images."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from PIL import Image

from ropevit.cli.console import Console, print_line, progress_bar
from ropevit.cli.errors import show_error
from ropevit.cli.predict_classes import classify_images
from ropevit.cli.predict_features import write_features
from ropevit.cli.predictions import make_table
from ropevit.data.images import read_image
from ropevit.data.listing import ImageFile, find_images
from ropevit.device import resolve_device
from ropevit.tasks.predictions import Summary, check_out, new_folder, png_names
from ropevit.tasks.registry import CLASSIFY, TASKS, PredictOption, TaskSpec
from ropevit.tasks.runs.run_dir import WeightsChoice, describe_task, task_of_checkpoint, weights_file


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Images, model and output of a prediction."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE|FOLDER [...]")]
    """Image files, and folders that are searched for images recursively."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|HUB-ID")] = None
    """Weights: a file or hub id in any known layout, or the directory of a training run or of a study's run. ropevit's
    own files define the model and its classes: omit --model then."""
    weights: WeightsChoice | None = None
    """Which weights in the directory of a training run: best (default), last, or ema (their moving average)."""
    size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="PIXELS [PIXELS]")] = ()
    """Shorter side in pixels; classifiers also take height and width. Default: the training size of a classifier, the
    test size of a detector or segmenter (the maximum of the longer side is scaled in proportion)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Output folder; must not exist, or be empty. Default: none for classifiers, `predictions` for detectors and
    segmenters."""
    device: str = "auto"
    """auto (an accelerator if available, else the CPU), cpu, cuda, cuda:N, mps or xpu."""

    def __post_init__(self):
        if not self.images:
            raise ValueError("got no image; give at least one file, such as photo.jpg, or a folder")

    def option(self, name: str) -> Any:
        """Return the value of a task's option; None where it is not given, also for a flag."""
        value = getattr(self, name, None)
        return None if value is False else value

    def check_options(self, task: TaskSpec) -> None:
        """Refuse options that do not apply to the model's task.

        Raises:
            ValueError: Naming the option.
        """
        model = describe_task(task, self.checkpoint)
        for name in (each.name for each in fields(self) if each.name not in PredictConfig.__dataclass_fields__):
            value, option = self.option(name), task.predict_options.get(name)
            if value is not None and option is None:
                tasks = " or ".join(each.noun for each in TASKS.values() if name in each.predict_options)
                raise ValueError(f"got --{name.replace('_', '-')} with a {model}; it is for a {tasks}: omit it")
            if value is not None and option and option.least is not None and value < option.least:
                raise ValueError(f"got {name}={value}; expected at least {option.least:g}")
            if value is not None and option and option.choices and value not in option.choices:
                raise ValueError(f"got {name} {value!r} with a {model}; choose one of {', '.join(option.choices)}")
        if self.option("inference_mode") not in (None, "whole") and not self.size:
            raise ValueError(
                f"got --inference-mode {self.option('inference_mode')} without --size; modes differ only at other "
                "sizes than that of the training: add --size"
            )
        if task is not TASKS[CLASSIFY] and len(self.size) > 1:
            raise ValueError(f"got size {self.size} with a {task.noun}; give the shorter side only")


def _arguments_of_tasks() -> type[PredictConfig]:
    """Return a config with the options of all tasks, each once."""
    rows: dict[str, list[tuple[str, PredictOption]]] = {}
    for task in TASKS.values():
        for name, option in task.predict_options.items():
            rows.setdefault(name, []).append((task.noun, option))
    found: list[tuple[str, Any, Any]] = []
    for name, options in rows.items():
        text = "; ".join(f"{noun}: {option.help}" for noun, option in options) + "."
        kind = options[0][1].type
        hint: Any = bool if kind is bool else kind | None
        default = False if kind is bool else None
        found.append((name, Annotated[hint, tyro.conf.arg(help=text)], default))
    return make_dataclass("PredictArguments", found, bases=(PredictConfig,), frozen=True, kw_only=True)


def add_task_options() -> None:
    """Add the options of all registered tasks to the verb."""
    group = tyro.conf.arg(name="", constructor=_arguments_of_tasks())
    predict.__annotations__["config"] = Annotated[PredictConfig, group]


def predict(config: Annotated[PredictConfig, tyro.conf.arg(name="")]) -> None:
    """Predict on images of any size: classes, objects or segmentation maps.

    Classifiers print the most probable classes, and write predictions.csv and predictions.json to --out. Detectors and
    segmenters write each image with its predictions drawn, and detections.json (COCO results format) or labels/*.png
    (class indices from 1, as in ADE20K). Unreadable images are reported and skipped; the exit code is 2 then.

    For example:
      ropevit predict cat.jpg --model rope_mixed_deit_small_patch16_LS
      ropevit predict *.png --checkpoint runs/study/runs/zoom-rope_mixed-seed0/model.safetensors --size 56
      ropevit predict wide.jpg --model rope_mixed_deit_base_patch16_LS --size 384 --keep-aspect
      ropevit predict photos --checkpoint runs/mine --out guesses
      ropevit predict photos --model vit_small_patch16_dinov3 --checkpoint FILE --size 448 --features
      ropevit predict street.jpg --checkpoint runs/detector --threshold 0.5
      ropevit predict photos extra.jpg --checkpoint runs/segmenter --out found
    """
    if config.out is not None:
        check_out(config.out)  # now, not after loading
    device = resolve_device(config.device)
    files = find_images(config.images)
    task = task_of_checkpoint(config.checkpoint, config.weights)
    config.check_options(task)
    if task is TASKS[CLASSIFY] and config.option("features"):
        write_features(config, files, device)
    elif task is TASKS[CLASSIFY]:
        classify_images(config, files, device)
    else:
        _predict_images(config, files, task, device)


def _predict_images(config: PredictConfig, files: Sequence[ImageFile], task: TaskSpec, device: torch.device) -> None:
    """Predict on images one by one; write the results, and print a summary of each image."""
    open_predictor, others = task.get("predict"), task.get("predict_files")
    out, names = config.out or Path("predictions"), png_names(files, others)
    console = Console()
    with new_folder(out):
        with console.status("loading the model"):
            given = {"size": config.size[0] if config.size else None}
            given |= {name: config.option(name) for name in task.predict_options}
            given = {name: value for name, value in given.items() if value is not None}
            predictor = open_predictor(_checkpoint_file(config), out, device, **given)
        for line in getattr(predictor, "notes", ()):
            print_line(console, line)
        images = ImageReader(files, console)
        try:
            for index, file, image in images:
                found = predictor.take(index + 1, file, names[index], image)
                _show_summary(console, file.path, found, table=len(files) == 1)
        finally:  # results before Ctrl-C are kept
            written = predictor.close()
    images.conclude(f"wrote {count(images.done, 'image')} and {written} to {out}")


def _checkpoint_file(config: PredictConfig) -> str:
    """Return the weights file of a model that is not a classifier.

    Raises:
        ValueError: If the directory has no such weights, or --weights is given with a file.
    """
    found = weights_file(config.checkpoint, config.weights) or ""
    if config.weights is not None and found == config.checkpoint:
        raise ValueError(
            f"got --weights {config.weights} for {config.checkpoint}; only the directory of a training run has several"
        )
    return found


class ImageReader:
    """Reads image files one by one with a progress bar; each unreadable one is reported on a line of its own.

    Args:
        files: The images.
        console: Where to draw the bar.
    """

    def __init__(self, files: Sequence[ImageFile], console: Console):
        self.files, self.console = files, console
        self.done = 0

    def __iter__(self) -> Iterator[tuple[int, ImageFile, Image.Image]]:
        """Yield index, file and image of each readable file."""
        several = len(self.files) > 1
        with progress_bar(self.console, "images") if several else nullcontext(lambda *_: None) as update:
            for index, file in enumerate(self.files):
                update(index, len(self.files))
                try:
                    image = read_image(file.path)
                except ValueError as error:
                    show_error(error)
                else:
                    yield index, file, image
                    self.done += 1

    def conclude(self, line: str = "") -> None:
        """Print a last line, and exit with code 2 if an image was unreadable."""
        if line:
            print_line(self.console, line)
        if self.done < len(self.files):
            sys.exit(2)


def _show_summary(console: Console, path: Path, found: Summary, table: bool) -> None:
    """Print the summary of an image, optionally with a table."""
    print_line(console, f"{path}: {found.line}")
    if table and found.rows:
        console.print(make_table(found.headings, found.rows))


def count(number: int, thing: str) -> str:
    """Write a count with its noun, in the plural unless it is 1."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
