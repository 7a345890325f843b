"""`ropevit predict` with a classifier: its model, the preprocessing of its images, and their most probable classes."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from ropevit.cli.console import Console, print_line
from ropevit.cli.predictions import Predictions
from ropevit.data.listing import ImageFile
from ropevit.models import set_scaling
from ropevit.models.architectures import Model
from ropevit.tasks.classify.eval_model import EvalModel, class_names, config_at, open_eval_model, scaling_for
from ropevit.tasks.classify.inference_modes import TiledClassifier
from ropevit.tasks.classify.predict import InputTransform, classify_files
from ropevit.tasks.predictions import new_folder

if TYPE_CHECKING:
    from ropevit.cli.predict import PredictConfig

#: Defaults of --topk and --batch-size.
TOPK, BATCH = 5, 32
#: Default number of DataLoader workers, and the number of images from which they are worth starting.
WORKERS, MANY = 4, 64


def classify_images(config: "PredictConfig", files: Sequence[ImageFile], device: torch.device) -> None:
    """Classify the images; print the results, and write them to --out."""
    console = Console()
    with console.status("loading the model"):
        eval_model = open_eval_model(config.option("model"), config.checkpoint, config.weights)
        classes, mode = class_names(eval_model), config.option("inference_mode") or "whole"
        model, model_input = build_at_size(config, eval_model, console)
    if mode == "tiles":
        model = TiledClassifier(model, eval_model.trained_at)
    options = {"top": config.option("topk") or TOPK, **loader_options(config, files)}
    predictions = Predictions(console, files, config.out)
    with nullcontext() if config.out is None else new_folder(config.out):
        predictions.run(
            classify_files(model.to(device), [file.path for file in files], model_input, classes, **options)
        )
    if predictions.unreadable:
        sys.exit(2)


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
