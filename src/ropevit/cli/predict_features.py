"""`ropevit predict --features`: features of images, a file for each; and the model and images of all classifiers."""

import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import torch

from ropevit.cli.console import Console, print_line
from ropevit.cli.errors import show_error
from ropevit.cli.predictions import show_progress
from ropevit.data.listing import ImageFile
from ropevit.models import set_scaling
from ropevit.models.architectures import Model
from ropevit.tasks.classify.eval_model import EvalModel, config_at, open_eval_model, scaling_for
from ropevit.tasks.classify.features import extract_files
from ropevit.tasks.classify.predict import InputTransform, Unreadable
from ropevit.tasks.predictions import check_out, new_folder, png_names

if TYPE_CHECKING:
    from ropevit.cli.predict import PredictConfig

#: Default of --batch-size.
BATCH = 32
#: Default number of DataLoader workers, and the number of images from which they are worth starting.
WORKERS, MANY = 4, 64
#: Default of --out.
FEATURES = Path("features")


def loader_options(config: "PredictConfig", files: Sequence[ImageFile]) -> dict[str, int]:
    """Return batch size and workers."""
    workers = config.option("workers")
    workers = (WORKERS if len(files) >= MANY else 0) if workers is None else workers
    return {"batch_size": config.option("batch_size") or BATCH, "workers": workers}


def build_at_size(config: "PredictConfig", eval_model: EvalModel, console: Console) -> tuple[Model, InputTransform]:
    """Build the model at the size asked for, with the scaling asked for, and the preprocessing of its images."""
    mode = config.option("inference_mode") or "whole"
    model = eval_model.build(config_at(eval_model, config.size if mode == "whole" else ()))
    if (scaling := config.option("scaling")) is not None:
        scaling, choice = scaling_for(eval_model, scaling, config.option("model"), config.checkpoint)
        set_scaling(model, scaling)
        if choice is not None:
            print_line(console, choice.describe())
    size = config.size or (model.config.img_size[:1] if config.option("keep_aspect") else model.config.img_size)
    return model, InputTransform(
        size=size,
        multiple=model.config.multiple,
        keep_aspect=bool(config.option("keep_aspect")),
        resize=eval_model.trained_at if mode == "resize" else None,
        crop=eval_model.family_crop or 1.0,
        squash=eval_model.squash,
        mean=eval_model.mean,
        std=eval_model.std,
    )


def write_features(config: "PredictConfig", files: Sequence[ImageFile], device: torch.device) -> None:
    """Write the features of each image to a file; report unreadable images, with exit code 2 at the end.

    Raises:
        ValueError: If an option for classes is given.
    """
    if config.option("topk") is not None or config.option("inference_mode") not in (None, "whole"):
        raise ValueError("got --features with --topk or --inference-mode, which are for classes: omit them")
    console, out = Console(), config.out or FEATURES
    check_out(out)
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
