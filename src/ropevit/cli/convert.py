"""`ropevit convert`."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from ropevit import weights
from ropevit.cli.console import Console
from ropevit.tasks.common.run_dir import weights_file
from ropevit.tasks.detect.convert import convert_detector, holds_detector


def convert(
    source: Annotated[str, tyro.conf.Positional],
    destination: Annotated[Path, tyro.conf.Positional],
    /,
    to: Literal["published", "timm", "ropevit", "detrex"] = "ropevit",
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    overwrite: bool = False,
    ema: bool = False,
) -> None:
    """Convert weights from any known layout to another, bit for bit; those of DINO detectors from and to detrex's.

    For example:
      ropevit convert pytorch_model.bin model.safetensors
      ropevit convert model.safetensors timm.safetensors --to timm
      ropevit convert dino_swin_tiny_224_4scale_12ep.pth detector.safetensors

    Args:
        source: A checkpoint file (.pth .bin .safetensors), a hub id, or the directory of a training (its best weights)
            or of a study's run.
        destination: File to write; its suffix decides the container.
        to: Layout to write.
        model: Name of the model, where the file alone does not tell.
        overwrite: Replace an existing file.
        ema: Convert the moving average that a training kept beside the weights.
    """
    if destination.exists() and not overwrite:
        raise ValueError(f"{destination} exists; choose another name, or add --overwrite to replace it")
    if Path(source).expanduser().is_dir():
        source, ema = str(weights_file(source, "ema" if ema else None)), False
    if to == "detrex" or holds_detector(source):
        if model is not None:
            raise ValueError("got --model with a detector, whose shapes tell what it is; leave it out")
        report = convert_detector(source, destination, to, overwrite=overwrite, ema=ema)
    else:
        report = weights.convert(source, destination, to=to, model=model, overwrite=overwrite, ema=ema)
    Console(soft_wrap=True).print(str(report), highlight=False)
