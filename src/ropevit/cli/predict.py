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
from rich import box
from rich.table import Table

from ropevit import weights
from ropevit.cli.console import Console
from ropevit.cli.data import bar
from ropevit.cli.errors import show_error
from ropevit.data.ade_classes import OWN
from ropevit.data.imagenet import MEAN, STD, imagenet_classes
from ropevit.data.images import read_image
from ropevit.data.listing import ImageFile, find_images
from ropevit.models import Model, SwinConfig, get_config
from ropevit.models.registry import paper_window
from ropevit.study.device import resolve_device
from ropevit.tasks.classify.predict import Input, Prediction, classify
from ropevit.tasks.classify.subject import pixel_statistics
from ropevit.tasks.common.kept import Kind, Which, file_of_run, kind_of, told_kind
from ropevit.tasks.common.outputs import Summary, check_out, png_names
from ropevit.tasks.detect.predict import RESULTS, DetectionFolder, FindConfig, open_finder
from ropevit.tasks.segment.predict import LABELS, LabelFolder, open_labeller
from ropevit.weights.own import check_images

#: Option -> the kinds of model that it is for.
OPTIONS: dict[str, tuple[Kind, ...]] = {
    "model": ("classifier",),
    "whole": ("classifier",),
    "top": ("classifier", "detector"),
    "threshold": ("detector",),
    "out": ("detector", "segmenter"),
}
#: Kind of model -> what is written beside its pictures.
OTHERS = {"detector": (RESULTS,), "segmenter": (LABELS, OWN)}
#: Guesses of a classifier.
GUESSES = 5


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What to look at, and with which model."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE|FOLDER [...]")]
    """Image files, and folders of them at any depth."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of a classifier; its published weights are loaded unless a checkpoint is given."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|DIR|HUB-ID")] = None
    """Weights, or the directory of a training. A file of ours knows its model and its classes: no --model then."""
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
    """Folder to write (detectors and segmenters); must not exist, or be empty; `predictions` if left out."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self):
        if not self.images:
            raise ValueError("got no image; name at least one file, such as photo.jpg, or a folder")
        if self.top is not None and self.top < 1:
            raise ValueError(f"got top={self.top}; expected at least 1 guess")

    def check_options(self, kind: Kind) -> None:
        """Refuse what the kind of the model does not read.

        Raises:
            ValueError: Naming the option.
        """
        for name, kinds in OPTIONS.items():
            given = getattr(self, name)
            if kind not in kinds and given is not None and given is not False:
                told = told_kind(kind, self.checkpoint)
                raise ValueError(f"got --{name} with a {told}; it is for a {' or '.join(kinds)}: leave it out")
        if kind != "classifier" and len(self.size) > 1:
            raise ValueError(f"got size {self.size} with a {kind}; give the shorter side alone")


def predict(config: Annotated[PredictConfig, tyro.conf.arg(name="")]) -> None:
    """Name what is in images, find objects in them, or label their pixels: at any size.

    A classifier prints its guesses. Detectors and segmenters also write a picture of each image into --out, with
    detections.json (COCO's results), or labels/*.png (classes from 1, as ADE20K counts them).

    For example:
      ropevit predict cat.jpg --model rope_mixed_deit_small_patch16_LS
      ropevit predict *.png --checkpoint runs/study/runs/zoom-rope_mixed-seed0/model.safetensors --size 56
      ropevit predict wide.jpg --model rope_mixed_deit_base_patch16_LS --size 384 --whole
      ropevit predict street.jpg --checkpoint runs/detector --threshold 0.5
      ropevit predict photos extra.jpg --checkpoint runs/segmenter --out found
    """
    device = resolve_device(config.device)
    files = find_images(config.images)
    kind = kind_of(config.checkpoint, config.which)
    config.check_options(kind)
    if kind == "classifier":
        name_images(config, files, device)
    else:
        write_images(config, files, kind, device)


def name_images(config: PredictConfig, files: Sequence[ImageFile], device: torch.device) -> None:
    """Print a classifier's guesses for each image."""
    model, classes, look = load(config.model, checkpoint_file(config), config.size)
    size = config.size or (model.config.img_size[:1] if config.whole else model.config.img_size)
    form = Input(size=size, multiple=model.config.multiple, whole=config.whole, **look)
    model.to(device)
    images = Images(files, Console())
    for _, file, image in images:
        show_guesses(images.console, file.path, classify(model, image, form, classes, config.top or GUESSES))
    images.conclude()


def write_images(config: PredictConfig, files: Sequence[ImageFile], kind: Kind, device: torch.device) -> None:
    """Write what a detector or segmenter finds in each image, and print it in short."""
    out, names = config.out or Path("predictions"), png_names(files, OTHERS[kind])
    check_out(out)
    console = Console()
    with console.status("loading the model"):
        folder = open_folder(config, kind, out, device)
    images = Images(files, console)
    try:
        for index, file, image in images:
            show_summary(console, file.path, folder.take(index + 1, file, names[index], image), table=len(files) == 1)
    finally:  # what was found before Ctrl-C is kept
        others = folder.close()
    images.conclude(f"wrote {count(images.done, 'picture')} and {others} to {out}")


def open_folder(config: PredictConfig, kind: Kind, out: Path, device: torch.device) -> DetectionFolder | LabelFolder:
    """Load the model, with what writes its predictions."""
    path, size = checkpoint_file(config) or "", config.size[0] if config.size else None
    if kind == "segmenter":
        return LabelFolder(open_labeller(path, size, device), out)
    given = {"threshold": config.threshold, "top": config.top}
    options = FindConfig(size=size, **{name: value for name, value in given.items() if value is not None})
    return DetectionFolder(open_finder(path, options, device), out)


def checkpoint_file(config: PredictConfig) -> str | None:
    """Find the file of weights that is meant, in the directory of a training if one is given.

    Raises:
        ValueError: If the directory has none, or `which` is given for something else.
    """
    folder = Path(config.checkpoint or "").expanduser()
    if config.checkpoint and folder.is_dir():
        return str(file_of_run(folder, config.which))
    if config.which is not None:
        raise ValueError(
            f"got --which {config.which} for {config.checkpoint or config.model}; only the directory of a training "
            "has several weights"
        )
    return config.checkpoint


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
            self.console.print(line, soft_wrap=True, highlight=False)
        if self.done < len(self.files):
            sys.exit(2)


def load(
    name: str | None, checkpoint: str | None, size: tuple[int, ...]
) -> tuple[Model, tuple[str, ...], dict[str, tuple[float, ...]]]:
    """Find the model, the names of its classes, and mean and spread of the pixels that it wants."""
    if name is None and checkpoint is None:
        raise ValueError("got neither --model nor --checkpoint; name a model (see `ropevit models`) or a weights file")
    if name is not None and (checkpoint is None or not describes_itself(checkpoint)):
        swin = isinstance(get_config(name), SwinConfig)
        fields = {"window_size": paper_window(size[0], size[-1])} if swin and size else {}
        model = weights.create_model(name, pretrained=True if checkpoint is None else checkpoint, **fields)
        return model, imagenet_classes(), {"mean": MEAN, "std": STD}
    if name is not None:
        raise ValueError(f"{checkpoint} is a file of ours and knows its model and classes; leave out --model {name}")
    model, info = weights.load_model(checkpoint or "")
    check_images(info.config, str(checkpoint))
    if info.classes is None:
        raise ValueError(f"{checkpoint} names no classes; predict takes classifiers, such as a study's zoom models")
    return model, tuple(info.classes), pixel_statistics(info.metadata, model.config.in_channels, str(checkpoint))


def describes_itself(checkpoint: str) -> bool:
    """Tell whether a checkpoint is a file of ours, with classes."""
    metadata = weights.read_checkpoint(checkpoint).metadata
    return metadata.get("format") == "ropevit" and metadata.get("classes", "null") != "null"


def show_guesses(console: Console, path: Path, prediction: Prediction) -> None:
    """Print the guesses for one image as a table."""
    size = f"{prediction.height} x {prediction.width} pixels (height x width)"
    console.print(f"{path} at {size}", soft_wrap=True)
    rows = [(guess.name, f"{guess.probability:.1%}") for guess in prediction.guesses]
    console.print(lay_out(("class", "probability"), rows))


def show_summary(console: Console, path: Path, found: Summary, table: bool) -> None:
    """Print what was found in an image: in a line, perhaps with a table."""
    console.print(f"{path}: {found.line}", soft_wrap=True, highlight=False)
    if table and found.rows:
        console.print(lay_out(found.headings, found.rows))


def lay_out(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Make a table of names and numbers."""
    table = Table(box=box.SIMPLE_HEAD)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def count(number: int, thing: str) -> str:
    """Count things in words."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
