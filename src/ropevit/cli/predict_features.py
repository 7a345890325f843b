"""`ropevit predict --features`: features of images, a file for each."""

import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch

from ropevit.cli.console import Console, print_line
from ropevit.cli.errors import show_error
from ropevit.cli.predict_classes import build_at_size, loader_options
from ropevit.cli.predictions import show_progress
from ropevit.data.listing import ImageFile
from ropevit.tasks.classify.eval_model import open_eval_model
from ropevit.tasks.classify.features import extract_files
from ropevit.tasks.classify.predict import Unreadable
from ropevit.tasks.predictions import new_folder, png_names

if TYPE_CHECKING:
    from ropevit.cli.predict import PredictConfig

#: Default of --out.
FEATURES = Path("features")


def write_features(config: "PredictConfig", files: Sequence[ImageFile], device: torch.device) -> None:
    """Write the features of each image to a file; report unreadable images, with exit code 2 at the end.

    Raises:
        ValueError: If an option for classes is given.
    """
    if config.option("topk") is not None or config.option("inference_mode") not in (None, "whole"):
        raise ValueError("got --features with --topk or --inference-mode, which are for classes: omit them")
    console, out = Console(), config.out or FEATURES
    names = [str(PurePosixPath(name).with_suffix(".safetensors")) for name in png_names(files)]
    unreadable = 0
    with new_folder(out):
        with console.status("loading the model"):
            eval_model = open_eval_model(config.option("model"), config.checkpoint, config.weights, needs_head=False)
            model, model_input = build_at_size(config, eval_model, console)
            model.reset_classifier(0)
        facts = {"model": config.option("model") or str(config.checkpoint), "scaling": str(model.scaling or "none")}
        found = extract_files(
            model.to(device), [file.path for file in files], model_input, **loader_options(config, files)
        )
        with show_progress(console, "images", len(files), lines=True) as update:
            for index, features in enumerate(found):
                if isinstance(features, Unreadable):
                    show_error(ValueError(features))
                    unreadable += 1
                else:
                    features.save(out / names[index], facts | {"image": files[index].name})
                    if len(files) == 1:
                        print_line(console, f"{files[index].path}: {features.summary}")
                update(index + 1)
    written = len(files) - unreadable
    print_line(console, f"wrote the features of {written:,} image{'' if written == 1 else 's'} to {out}")
    if unreadable:
        sys.exit(2)
