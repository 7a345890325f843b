"""`ropevit predict`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ropevit import weights
from ropevit.data.imagenet import MEAN, STD, imagenet_classes
from ropevit.models import Model, SwinConfig, get_config
from ropevit.models.registry import paper_window
from ropevit.study.device import resolve_device
from ropevit.tasks.classify.predict import Input, Prediction, predict_each
from ropevit.tasks.classify.subject import pixel_statistics


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What to name, and with which model."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """Image files."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of a model; its published weights are loaded unless a checkpoint is given."""
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|HUB-ID")] = None
    """Weights. A file of ours, as a study writes it, knows its model and its classes: no --model then."""
    size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="PIXELS [PIXELS]")] = ()
    """Shorter side in pixels, or height and width; the training size if left out."""
    whole: bool = False
    """Keep each picture's own shape instead of cutting its middle out."""
    top: int = 5
    """Number of guesses."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self):
        if not self.images:
            raise ValueError("got no image; name at least one file, such as photo.jpg")
        if missing := [str(path) for path in self.images if not path.is_file()]:
            raise ValueError(f"no image file at {', '.join(missing)}; check the path, and name files, not folders")
        if self.top < 1:
            raise ValueError(f"got top={self.top}; expected at least 1 guess")


def predict(config: Annotated[PredictConfig, tyro.conf.arg(name="")]) -> None:
    """Name what is in images, at any size.

    For example:
      ropevit predict cat.jpg --model rope_mixed_deit_small_patch16_LS
      ropevit predict *.png --checkpoint runs/study/runs/zoom-rope_mixed-seed0/model.safetensors --size 56
      ropevit predict wide.jpg --model rope_mixed_deit_base_patch16_LS --size 384 --whole
    """
    device = resolve_device(config.device)
    model, classes, look = load(config.model, config.checkpoint, config.size)
    size = config.size or (model.config.img_size[:1] if config.whole else model.config.img_size)
    form = Input(size=size, multiple=model.config.multiple, whole=config.whole, **look)
    for prediction in predict_each(model.to(device), config.images, form, classes, config.top):
        show(prediction)


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
    if info.classes is None:
        raise ValueError(f"{checkpoint} names no classes; predict takes classifiers, such as a study's zoom models")
    return model, tuple(info.classes), pixel_statistics(info.metadata, model.config.in_channels, str(checkpoint))


def describes_itself(checkpoint: str) -> bool:
    """Tell whether a checkpoint is a file of ours, with classes."""
    metadata = weights.read_checkpoint(checkpoint).metadata
    return metadata.get("format") == "ropevit" and metadata.get("classes", "null") != "null"


def show(prediction: Prediction) -> None:
    """Print the guesses for one image as a table."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class")
    table.add_column("probability", justify="right")
    for guess in prediction.guesses:
        table.add_row(escape(guess.name), f"{guess.probability:.1%}")
    console = Console()
    console.print(
        f"{prediction.path} at {prediction.height} x {prediction.width} pixels (height x width)",
        soft_wrap=True,
        markup=False,
    )
    console.print(table)
