"""`ropevit convert`."""

from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from ropevit import weights


def convert(
    source: Annotated[str, tyro.conf.Positional],
    destination: Annotated[Path, tyro.conf.Positional],
    /,
    to: Literal["published", "timm", "ropevit"] = "ropevit",
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    overwrite: bool = False,
    ema: bool = False,
) -> None:
    """Convert weights from any known layout to another, bit for bit.

    For example:
      ropevit convert pytorch_model.bin model.safetensors
      ropevit convert model.safetensors timm.safetensors --to timm

    Args:
        source: A checkpoint file (.pth .bin .safetensors) or a hub id.
        destination: File to write; its suffix decides the container.
        to: Layout to write.
        model: Name of the model, where the file alone does not tell.
        overwrite: Replace an existing file.
        ema: Convert the moving average that a training script kept beside the weights.
    """
    if destination.exists() and not overwrite:
        raise ValueError(f"{destination} exists; choose another name, or add --overwrite to replace it")
    report = weights.convert(source, destination, to=to, model=model, overwrite=overwrite, ema=ema)
    Console(soft_wrap=True).print(str(report), markup=False, highlight=False)
