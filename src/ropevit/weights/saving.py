"""Saves and loads files of this package: safetensors with config, rotation convention and classes in the header."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from ropevit.files import write_atomically
from ropevit.models.architectures import Config, Model, build_model
from ropevit.plugins import load_plugins
from ropevit.text import join_names
from ropevit.weights.digest import KEY, content_digest
from ropevit.weights.errors import WeightsError
from ropevit.weights.loading import check_finite, load_parsed, unwrap_model
from ropevit.weights.match import LoadReport
from ropevit.weights.metadata import FORMAT, own_metadata, stored_classes, stored_metadata
from ropevit.weights.parse import parse_checkpoint
from ropevit.weights.reading import Source, read_checkpoint


@dataclass(frozen=True)
class ModelInfo:
    """The content of a model file besides the weights."""

    config: Config
    """Config of the model."""
    classes: list[str] | None
    """Names of its classes, in the order of the logits; None if none were saved."""
    metadata: dict[str, Any]
    """Metadata that was passed to `save_model`."""
    report: LoadReport
    """The loaded, resized and dropped weights."""


def save_model(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    classes: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Save a model with its config, atomically, so that `load_model` can rebuild it.

    Args:
        path: The file to write; ends in .safetensors. An existing file is replaced.
        model: A model of this package, also compiled or wrapped for distributed training.
        classes: Names of its classes, in the order of the logits.
        metadata: Anything else that JSON can represent. Mean, std and crop ratio of pretrained weights that are
            exceptions in their family, such as those of satellite images, are kept unless they are given.

    Returns:
        The path.

    Raises:
        WeightsError: If the suffix is another, the number of names is not the number of classes, or the weights are
            not finite or do not have the shapes of the model's config.
        ValueError: If the file cannot be written.
    """
    path, plain = Path(path), unwrap_model(model)
    if path.suffix != ".safetensors":
        raise WeightsError(f"got {str(path)!r}; expected a path that ends in .safetensors: change the suffix")
    if classes is not None and len(classes) != plain.config.num_classes:
        raise WeightsError(
            f"got {len(classes)} class names for a model with {plain.config.num_classes} classes; give one per class"
        )
    if wrong := [name for name in classes or () if not isinstance(name, str)]:
        raise WeightsError(f"got the class name {wrong[0]!r}; expected a string for each class")
    _check_savable(plain)
    header = own_metadata(
        plain.config, None if classes is None else list(classes), {**plain.preprocessing, **(metadata or {})}
    )
    write_safetensors(path, plain.state_dict(), header)
    return path


def load_model(source: Source, *, revision: str | None = None) -> tuple[Model, ModelInfo]:
    """Build a model from a file of `save_model`, with its config and weights.

    Args:
        source: Path or hub id of such a file, or a folder of `save_pretrained`.
        revision: Branch, tag or commit on the hub.

    Raises:
        WeightsError: If it cannot be read, or has no config.
    """
    load_plugins()
    checkpoint = read_checkpoint(source, revision)
    file_format = checkpoint.metadata.get("format", "")
    if file_format.startswith(f"{FORMAT}-"):
        task_model = file_format.removeprefix(f"{FORMAT}-")
        raise WeightsError(f"{checkpoint.source} holds a {task_model}; expected the file of a classifier")
    parsed = parse_checkpoint(checkpoint)
    if parsed.config is None:
        raise WeightsError(
            f"{parsed.source} has no config, as only files of save_model have one; "
            "name the model: --model NAME, or ropevit.create_model(NAME, pretrained=SOURCE)"
        )
    classes = stored_classes(checkpoint.metadata, parsed.config.num_classes, parsed.source)
    metadata = stored_metadata(checkpoint.metadata, parsed.source)
    model = build_model(parsed.config)
    report = load_parsed(model, parsed, replace_head=False)
    return model, ModelInfo(parsed.config, classes, metadata, report)


def write_safetensors(path: Path, state: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors and a header atomically; the header of a ropevit file gets a digest of both."""
    tensors, header = separate(state), dict(header)
    if header.get("format", "").startswith(FORMAT):
        header[KEY] = content_digest(tensors, header)
    data = safetensors.torch.save(tensors, header)
    write_atomically(path, lambda file: file.write(data))


def _check_savable(model: Model) -> None:
    """Raise WeightsError for a model that `load_model` could not rebuild: changed by hand, or with NaN or infinity."""
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in build_model(model.config).state_dict().items()}
    state = model.state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    if shapes != wanted:
        wrong = [name for name in {**wanted, **shapes} if shapes.get(name) != wanted.get(name)]
        raise WeightsError(
            f"{join_names(wrong)} of the model do not have the shapes of its config; change the head with "
            "reset_classifier, and anything else by building a model with another config"
        )
    check_finite(state, "the model")


def separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy each tensor to memory of its own, since saving a view would save its whole base."""
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
