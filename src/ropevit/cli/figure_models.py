"""Model and images for `ropevit figures`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ropevit.analysis.figure_model import FigureModel
from ropevit.analysis.layers import find_body
from ropevit.cli.errors import show_error
from ropevit.data.fashion import CLASSES, load_fashion
from ropevit.data.imagenet import MEAN, STD
from ropevit.data.images import read_image, resize_to, to_tensor
from ropevit.data.listing import TEST_FOLDERS, find_images
from ropevit.data.sources import NAMED_SOURCES
from ropevit.models import build_model, get_config
from ropevit.models.architectures import Config
from ropevit.models.preprocessing import preprocessing_of
from ropevit.models.registry import resolve_name
from ropevit.tasks.classify.eval_model import EvalModel, read_eval_model
from ropevit.tasks.registry import CLASSIFY, TASKS, TaskSpec
from ropevit.tasks.runs.run_dir import RUN_FILES, WeightsChoice, task_of_checkpoint, weights_file
from ropevit.weights.loading import load_parsed
from ropevit.weights.match import LoadReport

#: Number of images that figures from images average over.
_NUM_IMAGES = 8
#: Value of --images for the embedded images.
FASHION = "fashion"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Normalization of images for a model."""

    mean: tuple[float, ...] = MEAN
    """Mean of each channel, for pixels from 0 to 1."""
    std: tuple[float, ...] = STD
    """Standard deviation of each channel."""
    embedded: bool = False
    """Whether the model was trained on the embedded images."""


def open_figure_model(
    model: str | None, checkpoint: str | None, weights: WeightsChoice | None
) -> tuple[FigureModel, Preprocessing]:
    """Load a model for figures.

    Args:
        model: Name of a classifier; its published weights are loaded unless a checkpoint is given.
        checkpoint: A file or hub id of any layout, or the directory of a training run.
        weights: Which weights in the directory of a training run.

    Returns:
        The model in evaluation mode, and how its input images are normalized.

    Raises:
        ValueError: If neither is given, the model cannot be inferred from the checkpoint, or a name is given with a
            detector or segmenter.
        WeightsError: If the weights cannot be read, or do not match the model.
    """
    task = task_of_checkpoint(checkpoint, weights)
    if task is not TASKS[CLASSIFY] and checkpoint is not None:
        return _open_dense_model(task, model, checkpoint, weights), Preprocessing()
    read = read_eval_model(model, checkpoint, weights)
    built = build_model(read.config)
    report = load_parsed(built, read.parsed, replace_head=False)
    found = FigureModel(
        model=built.eval(),
        label=_label_of(read.name, checkpoint),
        trained_size=training_size(read.config, read.trained_at),
        name=read.published_name,
        published=is_published(read, report),
    )
    embedded = read.classes == CLASSES or read.config.in_channels == 1
    return found, Preprocessing(mean=read.mean, std=read.std, embedded=embedded)


def is_published(read: EvalModel, report: LoadReport) -> bool:
    """Return whether weights are the published ones, judging by layout, number of classes and size."""
    if read.parsed.config is not None or read.published_name is None:
        return False
    classes = get_config(read.published_name).num_classes
    return report.layout == "published" and read.parsed.num_classes == classes and not report.resized


def _open_dense_model(task: TaskSpec, model: str | None, checkpoint: str, weights: WeightsChoice | None) -> FigureModel:
    """Load a detector or segmenter, for figures of its backbone."""
    if model is not None:
        raise ValueError(f"{checkpoint} is a {task.noun}, whose file defines its model; omit --model {model}")
    path = Path(checkpoint).expanduser()
    file = Path(weights_file(checkpoint, weights) or "").expanduser()
    found = task.get("load")(file)[0]
    label = _label_of(path.name.removesuffix(".safetensors"), str(file))
    return FigureModel(model=found.eval(), label=label, trained_size=find_body(found).config.img_size)


def random_figure_model(model: str) -> tuple[FigureModel, Preprocessing]:
    """Build a model with random weights from a fixed seed, as before training."""
    model = resolve_name(model)
    config = get_config(model)
    family = preprocessing_of(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = build_model(config).eval()
    label = f"{model}, random weights"
    return FigureModel(model=built, label=label, trained_size=config.img_size, name=model), Preprocessing(
        mean=family.mean or MEAN, std=family.std or STD
    )


def _label_of(name: str, checkpoint: str | None) -> str:
    """Return a label for a model: for a weights file of a training, the name of the training's directory."""
    path = Path(checkpoint or "").expanduser()
    return path.resolve().parent.name if path.is_file() and path.name in RUN_FILES.values() else name


def training_size(config: Config, trained_at: int) -> tuple[int, int]:
    """Return height and width in pixels of the training images."""
    if config.windowed:
        return config.img_size if trained_at == config.img_size[0] else (trained_at, trained_at)
    rows, columns = config.trained_grid or config.attention_grid
    return rows * config.patch_size, columns * config.patch_size


def load_images(name: str, preprocessing: Preprocessing, size: int) -> Float[Tensor, "B c S S"]:
    """Load a few images as normalized square center crops; unreadable ones in a folder are reported and skipped.

    Args:
        name: `fashion`, `emoji`, an image, or a folder that is searched recursively; if it has a val or test folder,
            only that.
        preprocessing: How images become the model's input.
        size: Side in pixels.

    Raises:
        ValueError: If there are no images, or none of the chosen ones can be read.
    """
    if name == FASHION:
        found = load_fashion("test").images[:_NUM_IMAGES, 0].numpy()
        images = [Image.fromarray(image) for image in found]
    elif name in NAMED_SOURCES:
        source = NAMED_SOURCES[name]("val")
        images = [source.read(index)[0] for index in range(min(_NUM_IMAGES, len(source)))]
    else:
        folder = Path(name).expanduser()
        folder = next((folder / split for split in TEST_FOLDERS if (folder / split).is_dir()), folder)
        files = find_images([folder])
        images = _read_images([file.path for file in files[:: max(1, len(files) // _NUM_IMAGES)][:_NUM_IMAGES]])
    return torch.stack(
        [to_tensor(resize_to(image, size, size), preprocessing.mean, preprocessing.std) for image in images]
    )


def _read_images(paths: Sequence[Path]) -> list[Image.Image]:
    """Read images; unreadable ones are reported and skipped.

    Raises:
        ValueError: If no image can be read.
    """
    images, last = [], ValueError("got no images")
    for path in paths:
        try:
            images.append(read_image(path))
        except ValueError as error:
            last = error
            if len(paths) > 1:
                show_error(error)
    if not images:
        raise last
    return images
