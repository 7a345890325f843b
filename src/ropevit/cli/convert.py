"""`ropevit convert`: a checkpoint from one layout of weights to another."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from ropevit import weights
from ropevit.cli.console import Console
from ropevit.tasks.detect.convert import convert_detector, holds_detector
from ropevit.tasks.runs.run_dir import weights_file


def convert(
    source: Annotated[str, tyro.conf.Positional],
    destination: Annotated[Path, tyro.conf.Positional],
    /,
    to: Literal["published", "timm", "ropevit", "dinov3", "transformers", "eva02", "pe", "detrex"] = "ropevit",
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    overwrite: bool = False,
    ema: bool = False,
) -> None:
    """Convert a checkpoint between layouts, bit for bit; DINO detectors also from and to detrex.

    For example:
      ropevit convert pytorch_model.bin model.safetensors
      ropevit convert model.safetensors timm.safetensors --to timm
      ropevit convert dino_swin_tiny_224_4scale_12ep.pth detector.safetensors

    Args:
        source: A checkpoint file (.pth .bin .safetensors), a hub id, or the directory of a training run (its best
            weights) or of a study's run.
        destination: Output file; its suffix (.safetensors, .pth, .bin) decides the file format.
        to: Layout of the output; dinov3 (its authors' names) and transformers are for DINOv3, eva02 and pe
            (their authors' names) for EVA-02 and Perception Encoder.
        model: Name of the model, or a variant such as deit_small, if it cannot be inferred from the file.
        overwrite: Replace an existing file.
        ema: Convert the EMA weights.
    """
    if destination.exists() and not overwrite:
        raise ValueError(f"{destination} exists; choose another name, or replace it with --overwrite")
    if Path(source).expanduser().is_dir():
        source, ema = str(weights_file(source, "ema" if ema else None)), False
    if to == "detrex" or holds_detector(source):
        if model is not None:
            raise ValueError("got --model with a detector, which is recognized by its shapes; omit --model")
        report = convert_detector(source, destination, to, overwrite=overwrite, ema=ema)
    else:
        report = weights.convert(source, destination, to=to, model=model, overwrite=overwrite, ema=ema)
    Console(soft_wrap=True).print(str(report), highlight=False)
