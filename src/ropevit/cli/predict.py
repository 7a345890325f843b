"""`ropevit predict`."""

from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from ropevit import weights
from ropevit.data.imagenet import imagenet_classes
from ropevit.study.device import resolve_device
from ropevit.tasks.classify.predict import Input, Prediction
from ropevit.tasks.classify.predict import predict as classify


def predict(
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    /,
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    checkpoint: Annotated[str | None, tyro.conf.arg(metavar="FILE|HUB-ID")] = None,
    size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="PIXELS [PIXELS]")] = (),
    whole: bool = False,
    top: int = 5,
    device: str = "auto",
) -> None:
    """Name what is in images, at any size.

    For example:
      ropevit predict cat.jpg --model rope_mixed_deit_small_patch16_LS
      ropevit predict *.png --checkpoint runs/study/runs/zoom-rope_mixed-seed0/model.safetensors --size 56
      ropevit predict wide.jpg --model rope_mixed_deit_base_patch16_LS --size 384 --whole

    Args:
        images: Image files.
        model: Name of a model; its published weights are loaded unless a checkpoint is given.
        checkpoint: Weights: a file or a hub id. A file of ours knows its model.
        size: Shorter side in pixels, or height and width; the training size if left out.
        whole: Keep each picture's own shape instead of cutting a square from its centre.
        top: Number of guesses.
        device: auto, cpu or cuda.
    """
    if not images:
        raise ValueError("got no image; name at least one file, such as photo.jpg")
    if missing := [str(path) for path in images if not path.is_file()]:
        raise ValueError(f"no image file at {', '.join(missing)}; check the path")
    if top < 1:
        raise ValueError(f"got top={top}; expected at least 1 guess")
    net, form, classes = load(model, checkpoint, size, whole)
    for prediction in classify(net.to(resolve_device(device)), images, form, classes, top):
        show(prediction)


def load(
    model: str | None, checkpoint: str | None, size: tuple[int, ...], whole: bool
) -> tuple[torch.nn.Module, Input, tuple[str, ...]]:
    """Find the model, how it wants its images, and the names of its classes."""
    look = {}
    if model is not None:
        net, classes = weights.create_model(model, pretrained=checkpoint or True), imagenet_classes()
    elif checkpoint is not None:
        net, info = weights.load_model(checkpoint)
        if info.classes is None:
            raise ValueError(f"{checkpoint} names no classes; predict takes classifiers, such as a study's zoom models")
        look, classes = info.metadata, tuple(info.classes)
    else:
        raise ValueError("got neither --model nor --checkpoint; name a model (see `ropevit models`) or a weights file")
    form = Input(
        size=size or net.config.img_size[:1],
        patch_size=net.config.patch_size,
        whole=whole,
        **{key: (look[key],) * net.config.in_channels for key in ("mean", "std") if key in look},
    )
    return net, form, classes


def show(prediction: Prediction) -> None:
    """Print the guesses for one image as a table."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class")
    table.add_column("probability", justify="right")
    for guess in prediction.guesses:
        table.add_row(guess.name, f"{guess.probability:.1%}")
    console = Console()
    console.print(f"{prediction.path} at {prediction.height} x {prediction.width} pixels", soft_wrap=True, markup=False)
    console.print(table)
