"""The classifier that a command is given: a published one, a file of weights, or what a training or a study left."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ropevit.data.imagenet import MEAN, STD, imagenet_classes
from ropevit.models.architectures import Config, Model, build_model
from ropevit.models.registry import MODELS, get_config, resolve_name
from ropevit.tasks.common.run_dir import Which, weights_file
from ropevit.weights.hub import hub_id
from ropevit.weights.infer import claimed_name
from ropevit.weights.loading import load_parsed
from ropevit.weights.metadata import IGNORED_FIELDS, check_images, metadata_value, stored_classes, stored_metadata
from ropevit.weights.parse import ParsedCheckpoint, parse_checkpoint
from ropevit.weights.reading import read_checkpoint


@dataclass(frozen=True, kw_only=True)
class EvalModel:
    """Weights as read, and what is known about their model."""

    name: str
    """A short name, for a directory."""
    found: ParsedCheckpoint
    config: Config
    classes: tuple[str, ...] | None
    """Names of its classes, where the file gives them."""
    trained_at: int
    """Training size in pixels."""
    mean: tuple[float, ...] = MEAN
    """Mean of each channel, for pixels from 0 to 1."""
    std: tuple[float, ...] = STD
    """Spread of each channel."""
    crop: float | None = None
    """Crop ratio with which its training was evaluated, where that is known."""
    labels_pixels: bool = False
    """Whether it is a study's `field` model, whose outputs are labels of a patch's pixels."""

    def build(self, config: Config) -> Model:
        """Build the model with another size or window, its embeddings resized."""
        model = build_model(config)
        load_parsed(model, self.found, replace_head=False)
        return model.eval()

    @property
    def published_name(self) -> str | None:
        """Name in the registry of the model that this is, its head and size apart."""
        return next(
            (name for name, config in MODELS.items() if _without_wrapper(config) == _without_wrapper(self.config)), None
        )


def _without_wrapper(config: Config) -> dict[str, Any]:
    """Give the fields of a config that make a model another one."""
    return {field.name: getattr(config, field.name) for field in fields(config) if field.name not in IGNORED_FIELDS} | {
        "kind": type(config)
    }


def open_eval_model(model: str | None, checkpoint: str | None, which: Which | None = None) -> EvalModel:
    """Read the weights of a classifier of images.

    Args:
        model: As `read_eval_model`.
        checkpoint: As `read_eval_model`.
        which: As `read_eval_model`.

    Raises:
        ValueError: As `read_eval_model`, and if it has no head, labels pixels, or takes other images than grey or
            coloured ones.
        WeightsError: If the weights cannot be read.
    """
    subject = read_eval_model(model, checkpoint, which)
    source, config = subject.found.source, subject.config
    if subject.labels_pixels:
        raise ValueError(
            f"{source} labels pixels, which its study does outside the model; take a classifier, such as the zoom "
            "model of the same study"
        )
    if not config.num_classes:
        raise ValueError(f"{source} has no head; take a classifier")
    if config.in_channels not in (1, 3):
        raise ValueError(f"{source} takes images of {config.in_channels} channels; images have 1 (grey) or 3 (RGB)")
    return subject


def class_names(subject: EvalModel) -> tuple[str, ...]:
    """Give the names of a model's classes.

    Raises:
        ValueError: If they are not known.
    """
    names = known_names(subject)
    if names is None:
        raise ValueError(
            f"{subject.found.source} does not name its {subject.config.num_classes} classes; save it with them: "
            "ropevit.save_model(path, model, classes=[...])"
        )
    return names


def known_names(subject: EvalModel) -> tuple[str, ...] | None:
    """Give the names of a model's classes, if they are known: those in its file, or, for as many, ImageNet-1k's."""
    if subject.classes is None and subject.config.num_classes == len(imagenet_classes()):
        return imagenet_classes()
    return subject.classes


def config_at(subject: EvalModel, size: tuple[int, ...]) -> Config:
    """Give the config for images of a size: a published Swin takes windows of 1/32 of it, as the paper does.

    Args:
        subject: What is to be built.
        size: Side, or height and width, in pixels; empty for the training's.
    """
    config = subject.config
    if subject.found.config is not None or not config.windowed or not size:
        return config
    grid, (window, _) = config.trained_grid or config.attention_grid, config.at_size((size[0], size[-1])).attention_grid
    fitted = replace(config, window_size=window)
    return fitted if grid == fitted.attention_grid else replace(fitted, trained_grid=grid)


def read_eval_model(model: str | None, checkpoint: str | None, which: Which | None = None) -> EvalModel:
    """Read weights, and find out what their model is.

    Args:
        model: Name of a model; its published weights are read unless a checkpoint is given.
        checkpoint: A file or hub id of any layout, or the directory of a training or of a study's run.
        which: Which weights of a directory: the best (default), the last, or their moving average; `ema` also of a file
            of another layout that keeps it.

    Raises:
        ValueError: If nothing is named, or it is not said which model it is.
        WeightsError: If the weights cannot be read.
    """
    if model is None and checkpoint is None:
        raise ValueError("got neither --model nor --checkpoint; give a model (see `ropevit models`) or a weights file")
    if model is not None:
        model = resolve_name(model)  # refuses an unknown name before anything is fetched
    folder = Path(checkpoint or "").expanduser()
    if checkpoint and folder.is_dir():
        name, source, ema = folder.resolve().name, str(weights_file(checkpoint, which)), False
    elif which in ("best", "last"):
        raise ValueError(f"got which={which!r} for {checkpoint or model}; only the directory of a training has several")
    else:
        source, ema = hub_id(str(model)) if checkpoint is None else checkpoint, which == "ema"
        name = model or folder.name.removesuffix(folder.suffix if folder.is_file() else "")
    read = read_checkpoint(source)
    found = parse_checkpoint(read, ema)
    if found.config is not None:
        return _own_eval_model(name, found, read.metadata, model)
    named = model or claimed_name(found.source)
    if named is None:
        raise ValueError(f"{found.source} does not say which model it is; name it with --model, see `ropevit models`")
    config = get_config(named, **({} if found.num_classes is None else {"num_classes": found.num_classes}))
    return EvalModel(name=name, found=found, config=config, classes=None, trained_at=config.img_size[0])


def _own_eval_model(name: str, found: ParsedCheckpoint, header: Mapping[str, str], model: str | None) -> EvalModel:
    """Take model, classes and pixels from what a file of ours says."""
    config = found.config
    assert config is not None
    check_images(config, found.source)
    classes = stored_classes(header, config.num_classes, found.source)
    facts = {"train_size": config.img_size[0], "crop": None} | stored_metadata(header, found.source)
    if model is not None and (classes is not None or _without_wrapper(get_config(model)) != _without_wrapper(config)):
        raise ValueError(f"{found.source} is a file of ours and knows its model and classes; leave out --model {model}")
    return EvalModel(
        name=name,
        found=found,
        config=config,
        classes=None if classes is None else tuple(classes),
        trained_at=metadata_value(facts, "train_size", int, found.source),
        **pixel_statistics(facts, config.in_channels, found.source),
        crop=metadata_value(facts, "crop", float | None, found.source),
        labels_pixels=facts.get("panel") == "field",
    )


def pixel_statistics(metadata: Mapping[str, Any], channels: int, source: str) -> dict[str, tuple[float, ...]]:
    """Read mean and spread of the pixels, one number for all channels or one for each; ImageNet's if there are none.

    Raises:
        ValueError: If there are as many as neither.
    """
    found = {}
    for key, default in (("mean", MEAN), ("std", STD)):
        value = metadata_value({key: default} | dict(metadata), key, float | tuple[float, ...], source)
        numbers = value if isinstance(value, tuple) else (value,) * channels
        if len(numbers) != channels:
            raise ValueError(
                f"{source} gives {key}={list(numbers)} for images of {channels} channels; expected one each"
            )
        if key == "std" and min(numbers) <= 0:
            raise ValueError(f"{source} gives std={value}, by which pixels are divided; expected numbers above 0")
        found[key] = numbers
    return found
