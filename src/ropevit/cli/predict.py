"""`ropevit predict`."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from PIL import Image

from ropevit.cli.classes import Predictions, lay_out
from ropevit.cli.console import Console, print_line
from ropevit.cli.data import bar
from ropevit.cli.errors import show_error
from ropevit.data.ade_classes import CLASSES_FILE
from ropevit.data.images import read_image
from ropevit.data.listing import ImageFile, find_images
from ropevit.device import resolve_device
from ropevit.tasks.classify.eval_model import class_names, config_at, open_eval_model
from ropevit.tasks.classify.predict import Input, classify_files
from ropevit.tasks.common.drawing import Summary, check_out, new_folder, png_names
from ropevit.tasks.common.run_dir import TaskName, Which, describe_task, detect_task, weights_file
from ropevit.tasks.detect.predict import RESULTS, DetectionFolder, DetectionOptions, open_finder
from ropevit.tasks.segment.predict import LABELS, LabelFolder, open_labeller

#: Option -> the kinds of model that it is for.
OPTIONS: dict[str, tuple[TaskName, ...]] = {
    "model": ("classifier",),
    "whole": ("classifier",),
    "top": ("classifier", "detector"),
    "threshold": ("detector",),
    "batch_size": ("classifier",),
    "workers": ("classifier",),
}
#: Kind of model -> what is written beside its pictures.
OTHERS = {"detector": (RESULTS,), "segmenter": (LABELS, CLASSES_FILE)}
#: Guesses of a classifier, and images of a batch, unless told otherwise.
GUESSES, BATCH = 5, 32
#: Processes that read images unless told otherwise, from so many images on; starting them takes seconds.
WORKERS, MANY = 4, 64


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What to look at, and with which model."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE|FOLDER [...]")]
    """Image files, and folders of them at any depth."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of a classifier; its published weights are loaded unless a checkpoint is given."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|HUB-ID")] = None
    """Weights, or the directory of a training or of a study's run. A file of ours knows its model and its classes: no
    --model then."""
    which: Which | None = None
    """Which weights of a directory: the best (if left out), the last, or their moving average."""
    size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="PIXELS [PIXELS]")] = ()
    """Shorter side in pixels; of a classifier also height and width. If left out the training size, or the size of
    the training's measurements (the limit on the longer side keeps its ratio to it)."""
    whole: bool = False
    """Keep each image's own shape instead of cutting its middle out (classifiers; the others always do)."""
    threshold: float | None = None
    """Least score of an object, from 0 to 1 (detectors); 0.3 if left out."""
    top: int | None = None
    """Number of guesses (classifiers; 5 if left out), or the most objects of an image (detectors; 100)."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder to write; must not exist, or be empty. If left out, a classifier writes nothing, and the others write
    `predictions`."""
    batch_size: int | None = None
    """Images that go through a classifier at once; 32 if left out."""
    workers: int | None = None
    """Processes that read images for a classifier; if left out 4, or none for fewer than 64 images."""
    device: str = "auto"
    """auto (the accelerator that there is, else the CPU), cpu, cuda, cuda:N, mps or xpu."""

    def __post_init__(self):
        if not self.images:
            raise ValueError("got no image; name at least one file, such as photo.jpg, or a folder")
        if self.top is not None and self.top < 1:
            raise ValueError(f"got top={self.top}; expected at least 1 guess")
        if (self.batch_size is not None and self.batch_size < 1) or (self.workers is not None and self.workers < 0):
            raise ValueError(
                f"got batch_size={self.batch_size}, workers={self.workers}; expected 1 or more, and 0 or more"
            )

    def check_options(self, kind: TaskName) -> None:
        """Refuse what the kind of the model does not read.

        Raises:
            ValueError: Naming the option.
        """
        for name, kinds in OPTIONS.items():
            given = getattr(self, name)
            if kind not in kinds and given is not None and given is not False:
                told = describe_task(kind, self.checkpoint)
                raise ValueError(
                    f"got --{name.replace('_', '-')} with a {told}; it is for a {' or '.join(kinds)}: leave it out"
                )
        if kind != "classifier" and len(self.size) > 1:
            raise ValueError(f"got size {self.size} with a {kind}; give the shorter side alone")


def predict(config: Annotated[PredictConfig, tyro.conf.arg(name="")]) -> None:
    """Classify images, find objects in them, or label their pixels: at any size.

    A classifier prints its guesses, and writes predictions.csv and predictions.json into --out. Detectors and
    segmenters write a picture of each image into it, with detections.json (COCO's results), or labels/*.png (classes
    from 1, as ADE20K counts them). An image that cannot be read is named and left out; the exit code is 2 then.

    For example:
      ropevit predict cat.jpg --model rope_mixed_deit_small_patch16_LS
      ropevit predict *.png --checkpoint runs/study/runs/zoom-rope_mixed-seed0/model.safetensors --size 56
      ropevit predict wide.jpg --model rope_mixed_deit_base_patch16_LS --size 384 --whole
      ropevit predict photos --checkpoint runs/mine --out guesses
      ropevit predict street.jpg --checkpoint runs/detector --threshold 0.5
      ropevit predict photos extra.jpg --checkpoint runs/segmenter --out found
    """
    if config.out is not None:
        check_out(config.out)  # now, not after loading
    device = resolve_device(config.device)
    files = find_images(config.images)
    kind = detect_task(config.checkpoint, config.which)
    config.check_options(kind)
    if kind == "classifier":
        name_images(config, files, device)
    else:
        write_images(config, files, kind, device)


def name_images(config: PredictConfig, files: Sequence[ImageFile], device: torch.device) -> None:
    """Classify all images, show it, and write it into --out."""
    console = Console()
    with console.status("loading the model"):
        subject = open_eval_model(config.model, config.checkpoint, config.which)
        classes, model = class_names(subject), subject.build(config_at(subject, config.size))
    size = config.size or (model.config.img_size[:1] if config.whole else model.config.img_size)
    form = Input(size=size, multiple=model.config.multiple, whole=config.whole, mean=subject.mean, std=subject.std)
    workers = (WORKERS if len(files) >= MANY else 0) if config.workers is None else config.workers
    options = {"top": config.top or GUESSES, "batch_size": config.batch_size or BATCH, "workers": workers}
    predictions = Predictions(console, files, config.out)
    with nullcontext() if config.out is None else new_folder(config.out):
        predictions.run(classify_files(model.to(device), [file.path for file in files], form, classes, **options))
    if predictions.unread:
        sys.exit(2)


def write_images(config: PredictConfig, files: Sequence[ImageFile], kind: TaskName, device: torch.device) -> None:
    """Write what a detector or segmenter finds in each image, and print it in short."""
    out, names = config.out or Path("predictions"), png_names(files, OTHERS[kind])
    console = Console()
    with new_folder(out):
        with console.status("loading the model"):
            folder = open_folder(config, kind, out, device)
        images = Images(files, console)
        try:
            for index, file, image in images:
                found = folder.take(index + 1, file, names[index], image)
                show_summary(console, file.path, found, table=len(files) == 1)
        finally:  # what was found before Ctrl-C is kept
            others = folder.close()
    images.conclude(f"wrote {count(images.done, 'picture')} and {others} to {out}")


def open_folder(
    config: PredictConfig, kind: TaskName, out: Path, device: torch.device
) -> DetectionFolder | LabelFolder:
    """Load the model, with what writes its predictions."""
    path, size = dense_file(config), config.size[0] if config.size else None
    if kind == "segmenter":
        return LabelFolder(open_labeller(path, size, device), out)
    given = {"threshold": config.threshold, "top": config.top}
    options = DetectionOptions(size=size, **{name: value for name, value in given.items() if value is not None})
    return DetectionFolder(open_finder(path, options, device), out)


def dense_file(config: PredictConfig) -> str:
    """Find the file of a detector or segmenter, which keeps one set of weights.

    Raises:
        ValueError: If the directory has none, or `which` is given for something else.
    """
    found = weights_file(config.checkpoint, config.which) or ""
    if config.which is not None and found == config.checkpoint:
        raise ValueError(
            f"got --which {config.which} for {config.checkpoint}; only the directory of a training has several weights"
        )
    return found


class Images:
    """Image files read one by one with a progress bar; one that cannot be read is an error on a line of its own.

    Args:
        files: What to read.
        console: Where the bar is drawn.
    """

    def __init__(self, files: Sequence[ImageFile], console: Console):
        self.files, self.console = files, console
        self.done = 0

    def __iter__(self) -> Iterator[tuple[int, ImageFile, Image.Image]]:
        """Give number (from 0), file and image of each that can be read."""
        several = len(self.files) > 1
        with bar(self.console, "images") if several else nullcontext(lambda *_: None) as update:
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
        """Print a last line, and end with exit code 2 if any image could not be read."""
        if line:
            print_line(self.console, line)
        if self.done < len(self.files):
            sys.exit(2)


def show_summary(console: Console, path: Path, found: Summary, table: bool) -> None:
    """Print what was found in an image: in a line, perhaps with a table."""
    print_line(console, f"{path}: {found.line}")
    if table and found.rows:
        console.print(lay_out(found.headings, found.rows))


def count(number: int, thing: str) -> str:
    """Count things in words."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
