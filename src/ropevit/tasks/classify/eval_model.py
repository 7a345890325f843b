"""Opens the classifier that a command names: a published model, a checkpoint, or the directory of a run."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ropevit.data.imagenet import MEAN, STD, imagenet_classes
from ropevit.models.architectures import Config, Model, build_model
from ropevit.models.config import Preprocessing
from ropevit.models.preprocessing import preprocessing_of
from ropevit.models.registry import MODELS, get_config, resolve_name
from ropevit.tasks.evaluation.results import hash_weights
from ropevit.tasks.evaluation.tuned_scaling import AUTO, TunedScaling, choices_file, resolve_scaling
from ropevit.tasks.runs.run_dir import WeightsChoice, weights_file
from ropevit.weights.hub import hub_id
from ropevit.weights.infer import claimed_name
from ropevit.weights.loading import load_parsed
from ropevit.weights.metadata import IGNORED_FIELDS, metadata_value, refuse_video, stored_classes, stored_metadata
from ropevit.weights.parse import ParsedCheckpoint, parse_checkpoint
from ropevit.weights.reading import read_checkpoint


@dataclass(frozen=True, kw_only=True)
class EvalModel:
    """A parsed checkpoint with the config and preprocessing of its model."""

    name: str
    """A short name, also used for a directory."""
    parsed: ParsedCheckpoint
    """The weights."""
    config: Config
    """Config of the model."""
    classes: tuple[str, ...] | None
    """Names of its classes; None if the file has none."""
    trained_at: int
    """Training size in pixels."""
    mean: tuple[float, ...] = MEAN
    """Mean of each channel, for pixels from 0 to 1."""
    std: tuple[float, ...] = STD
    """Standard deviation of each channel."""
    crop: float | None = None
    """Crop ratio of its training's evaluation; None if unknown."""
    family_crop: float | None = None
    """Crop ratio with which its authors evaluate it; None for the paper's models, whose protocol has it."""
    squash: bool = False
    """Whether they resize the whole image to a square, without keeping its aspect ratio."""
    labels_pixels: bool = False
    """Whether it is a study's `field` model, which outputs labels of a patch's pixels."""

    def build(self, config: Config) -> Model:
        """Build the model in eval mode with another image or window size, resizing its embeddings."""
        model = build_model(config)
        load_parsed(model, self.parsed, replace_head=False)
        return model.eval()

    @property
    def published_name(self) -> str | None:
        """Name of the registered model with this config, except for head and size; None if there is none."""
        same = [
            name for name, config in MODELS.items() if _identifying_fields(config) == _identifying_fields(self.config)
        ]
        of_size = [name for name in same if MODELS[name].img_size == self.config.img_size]
        return next(iter([*of_size, *same]), None)


def _identifying_fields(config: Config) -> dict[str, Any]:
    """Return the fields of a config that identify a model, without those that may differ for the same weights."""
    return {field.name: getattr(config, field.name) for field in fields(config) if field.name not in IGNORED_FIELDS} | {
        "type": type(config)
    }


def open_eval_model(
    model: str | None, checkpoint: str | None, weights: WeightsChoice | None = None, *, needs_head: bool = True
) -> EvalModel:
    """Read the weights of an image classifier.

    Args:
        model: Name of a model; its published weights are read unless a checkpoint is given.
        checkpoint: A file or hub id of any layout, or the directory of a training run or of a study's run.
        weights: Which weights of a directory: best, last or ema.
        needs_head: Whether a model without a head is refused.

    Raises:
        ValueError: If `read_eval_model` raises it, or the model has no head, labels pixels, or takes images with other
            channels than gray or RGB.
        WeightsError: If the weights cannot be read.
    """
    eval_model = read_eval_model(model, checkpoint, weights)
    source, config = eval_model.parsed.source, eval_model.config
    if eval_model.labels_pixels:
        raise ValueError(
            f"{source} labels pixels, which its study does outside the model; expected a classifier, such as the zoom "
            "model of the same study"
        )
    if needs_head and not config.num_classes:
        raise ValueError(
            f"{source} has no head; expected a classifier: `ropevit predict --features` writes its features, `ropevit "
            "probe` measures them"
        )
    check_channels(eval_model)
    return eval_model


def check_channels(eval_model: EvalModel) -> None:
    """Raise ValueError for a model of images with other channels than gray or RGB."""
    channels = eval_model.config.in_channels
    if channels not in (1, 3):
        raise ValueError(
            f"{eval_model.parsed.source} takes images of {channels} channels; expected a model for 1 (gray) or 3 (RGB)"
        )


def class_names(eval_model: EvalModel) -> tuple[str, ...]:
    """Return the names of a model's classes.

    Raises:
        ValueError: If they are unknown.
    """
    names = known_names(eval_model)
    if names is None:
        raise ValueError(
            f"{eval_model.parsed.source} does not name its {eval_model.config.num_classes} classes; save it with them: "
            "ropevit.save_model(path, model, classes=[...])"
        )
    return names


def known_names(eval_model: EvalModel) -> tuple[str, ...] | None:
    """Return the names of a model's classes: those in its file, or ImageNet-1k's if it has 1000; None if unknown."""
    if eval_model.classes is None and eval_model.config.num_classes == len(imagenet_classes()):
        return imagenet_classes()
    return eval_model.classes


def config_at(eval_model: EvalModel, size: tuple[int, ...]) -> Config:
    """Return the config at an image size; the windows of a published Swin have 1/32 of it, as in the paper.

    Args:
        eval_model: The model.
        size: Side, or height and width, in pixels; empty for the training's.
    """
    config = eval_model.config
    if eval_model.parsed.config is not None or not config.windowed or not size:
        return config
    grid, (window, _) = config.trained_grid or config.attention_grid, config.at_size((size[0], size[-1])).attention_grid
    fitted = replace(config, window_size=window)
    return fitted if grid == fitted.attention_grid else replace(fitted, trained_grid=grid)


def scaling_for(
    eval_model: EvalModel, scaling: str | None, model: str | None, checkpoint: str | None
) -> tuple[str | None, TunedScaling | None]:
    """Return the RoPE scaling of a model for the value of `--scaling`.

    Args:
        eval_model: The model.
        scaling: Methods, `none`, `auto` (what `ropevit tune-scaling` chose for these weights), or None for the model's.
        model: The name by which it was opened, if any.
        checkpoint: The checkpoint by which it was opened, if any.

    Returns:
        The methods, None for none, and the choice if it is `auto`.

    Raises:
        ValueError: If it is `auto`, and nothing was chosen for these weights.
    """
    digest = hash_weights(eval_model.parsed.state) if scaling == AUTO else ""
    return resolve_scaling(scaling, choices_file(model, checkpoint), digest, eval_model.config.scaling)


def with_scaling(eval_model: EvalModel, scaling: str | None) -> EvalModel:
    """Set the RoPE scaling of a model, with the grid of its training as the reference grid, also with other windows.

    None removes the model's scaling.

    Raises:
        ValueError: If there is no such scaling method, or the model has no RoPE.
    """
    config = eval_model.config
    fields = {"scaling": scaling, "trained_grid": config.trained_grid or config.attention_grid}
    return replace(eval_model, config=replace(config, **fields))


def read_eval_model(model: str | None, checkpoint: str | None, weights: WeightsChoice | None = None) -> EvalModel:
    """Read weights, and determine their model.

    Args:
        model: Name of a model; its published weights are read unless a checkpoint is given.
        checkpoint: A file or hub id of any layout, or the directory of a training run or of a study's run.
        weights: Which weights of a directory: best (default), last or ema; `ema` also applies to a file of another
            layout that stores EMA weights.

    Raises:
        ValueError: If neither is given, or the model cannot be determined.
        WeightsError: If the weights cannot be read.
    """
    if model is None and checkpoint is None:
        raise ValueError("got neither --model nor --checkpoint; give a model (see `ropevit models`) or a weights file")
    if model is not None:
        model = resolve_name(model)  # raises for an unknown name before anything is downloaded
    folder = Path(checkpoint or "").expanduser()
    if checkpoint and folder.is_dir():
        name, source, ema = folder.resolve().name, str(weights_file(checkpoint, weights)), False
    elif weights in ("best", "last"):
        raise ValueError(
            f"got --weights {weights} for {checkpoint or model}; only the directory of a training run has several"
        )
    else:
        source, ema = hub_id(str(model)) if checkpoint is None else checkpoint, weights == "ema"
        name = model or folder.name.removesuffix(folder.suffix if folder.is_file() else "")
    read = read_checkpoint(source)
    found = parse_checkpoint(read, ema)
    if found.config is not None:
        return _own_eval_model(name, found, read.metadata, model)
    named = model or claimed_name(found.source)
    if named is None:
        raise ValueError(
            f"{found.source} has no config, and its name is not that of a model; name it with --model, see "
            "`ropevit models`"
        )
    config = get_config(named, **({} if found.num_classes is None else {"num_classes": found.num_classes}))
    return _foreign_eval_model(name, found, config)


def _foreign_eval_model(name: str, found: ParsedCheckpoint, config: Config) -> EvalModel:
    """Return the model of a file without a config, with the pixels of its family."""
    family = preprocessing_of(config, found.source)
    return EvalModel(
        name=name,
        parsed=found,
        config=config,
        classes=None,
        trained_at=config.img_size[0],
        mean=family.mean or MEAN,
        std=family.std or STD,
        family_crop=family.crop,
        squash=family.squash,
    )


def _own_eval_model(name: str, found: ParsedCheckpoint, header: Mapping[str, str], model: str | None) -> EvalModel:
    """Return the model of a ropevit file, from its header."""
    config = found.config
    assert config is not None
    refuse_video(config, found.source)
    classes = stored_classes(header, config.num_classes, found.source)
    stored, family = stored_metadata(header, found.source), preprocessing_of(config)
    metadata = {"train_size": config.img_size[0], "crop": None} | stored
    own_crop = metadata_value(metadata, "crop", float | None, found.source)
    if model is not None and (
        classes is not None or _identifying_fields(get_config(model)) != _identifying_fields(config)
    ):
        raise ValueError(f"{found.source} holds its own config and classes; leave out --model {model}")
    return EvalModel(
        name=name,
        parsed=found,
        config=config,
        classes=None if classes is None else tuple(classes),
        trained_at=metadata_value(metadata, "train_size", int, found.source),
        **pixel_statistics(stored, config.in_channels, found.source, family),
        crop=own_crop,
        family_crop=own_crop or family.crop if family != Preprocessing() else None,
        squash=family.squash and own_crop is None,
        labels_pixels=metadata.get("panel") in ("field", "far"),
    )


def pixel_statistics(
    metadata: Mapping[str, Any], channels: int, source: str, family: Preprocessing | None = None
) -> dict[str, tuple[float, ...]]:
    """Read mean and std of the pixels, one number for all channels or one per channel.

    Args:
        metadata: Metadata of a file.
        channels: Channels of the images.
        source: Name of the file in messages.
        family: Family whose mean and std are taken for a file without them; ImageNet's by default.

    Raises:
        ValueError: If there is another number of them, or a std is not positive.
    """
    found, family = {}, family or Preprocessing()
    for key, default in (("mean", family.mean or MEAN), ("std", family.std or STD)):
        value = metadata_value({key: default} | dict(metadata), key, float | tuple[float, ...], source)
        numbers = value if isinstance(value, tuple) else (value,) * channels
        if len(numbers) != channels and key not in metadata:
            raise ValueError(
                f"{source} has no {key} of its pixels, and {len(numbers)} numbers are the default, for images of "
                f"{channels} channels; save it with them: save_model(..., metadata={{'mean': [...], 'std': [...]}})"
            )
        if len(numbers) != channels:
            raise ValueError(
                f"{source} has {key}={list(numbers)} for images of {channels} channels; expected one per channel"
            )
        if key == "std" and min(numbers) <= 0:
            raise ValueError(f"{source} has std={value}; expected numbers above 0, as pixels are divided by them")
        found[key] = numbers
    return found
