"""Our own files: safetensors with the model's config, convention and classes in the header."""

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
from ropevit.text import join_names
from ropevit.weights.digest import KEY, content_digest
from ropevit.weights.errors import WeightsError
from ropevit.weights.loading import check_finite, load_parsed, unwrap_model
from ropevit.weights.match import LoadReport
from ropevit.weights.metadata import FORMAT, own_metadata, stored_classes, stored_facts
from ropevit.weights.parse import parse_checkpoint
from ropevit.weights.reading import Source, read_checkpoint


@dataclass(frozen=True)
class ModelInfo:
    """What a file of ours says besides the weights."""

    config: Config
    """The model."""
    classes: list[str] | None
    """Names of its classes, in the order of the logits, where they were given."""
    metadata: dict[str, Any]
    """Whatever else was saved with it."""
    report: LoadReport
    """What was loaded."""


def save_model(
    path: str | os.PathLike[str],
    model: nn.Module,
    *,
    classes: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Save a model so that `load_model` can build it again, and never leave half a file.

    Args:
        path: Where to; ends in .safetensors. A file that is there is replaced in one step.
        model: A model of this package, also compiled or wrapped for distributed training.
        classes: Names of its classes, in the order of the logits.
        metadata: Anything else that JSON can hold.

    Returns:
        The path.

    Raises:
        WeightsError: If the suffix is another, the names are not as many as the classes, the weights are not those of
            the model's config or not finite.
        ValueError: If the disk refuses; the message names the file.
    """
    path, plain = Path(path), unwrap_model(model)
    if path.suffix != ".safetensors":
        raise WeightsError(f"got {str(path)!r}; a model is saved as .safetensors: change the suffix")
    if classes is not None and len(classes) != plain.config.num_classes:
        raise WeightsError(
            f"got {len(classes)} class names for a model of {plain.config.num_classes}; give one a class"
        )
    if odd := [name for name in classes or () if not isinstance(name, str)]:
        raise WeightsError(f"got the class name {odd[0]!r}; expected a text for each class")
    _check_savable(plain)
    header = own_metadata(plain.config, None if classes is None else list(classes), metadata or {})
    write_safetensors(path, plain.state_dict(), header)
    return path


def load_model(source: Source, *, revision: str | None = None) -> tuple[Model, ModelInfo]:
    """Build the model that `save_model` saved, from its own config, with its weights.

    Args:
        source: Path or hub id of a file of ours.
        revision: Branch, tag or commit on the hub.

    Raises:
        WeightsError: If it cannot be read, or is in a layout that does not say which model it is.
    """
    checkpoint = read_checkpoint(source, revision)
    own = checkpoint.metadata.get("format", "")
    if own.startswith(f"{FORMAT}-"):
        kind = own.removeprefix(f"{FORMAT}-")
        raise WeightsError(f"{checkpoint.source} holds a {kind}; this takes the file of a classifier")
    found = parse_checkpoint(checkpoint)
    if found.config is None:
        raise WeightsError(
            f"{found.source} does not say which model it is, as only files of save_model do; "
            "name the model: --model NAME, or ropevit.create_model(NAME, pretrained=SOURCE)"
        )
    classes = stored_classes(checkpoint.metadata, found.config.num_classes, found.source)
    metadata = stored_facts(checkpoint.metadata, found.source)
    model = build_model(found.config)
    report = load_parsed(model, found, replace_head=False)
    return model, ModelInfo(found.config, classes, metadata, report)


def write_safetensors(path: Path, state: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors and a header, all or nothing; a file of ours gets a digest of both."""
    tensors, header = separate(state), dict(header)
    if header.get("format", "").startswith(FORMAT):
        header[KEY] = content_digest(tensors, header)
    data = safetensors.torch.save(tensors, header)
    write_atomically(path, lambda file: file.write(data))


def _check_savable(model: Model) -> None:
    """Refuse a model that `load_model` could not build again: changed by hand, without weights, or diverged."""
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in build_model(model.config).state_dict().items()}
    state = model.state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    if shapes != wanted:
        wrong = [name for name in {**wanted, **shapes} if shapes.get(name) != wanted.get(name)]
        raise WeightsError(
            f"{join_names(wrong)} of the model do not have the shapes of its config; change the head with "
            "reset_classifier, and everything else by building a model of another config"
        )
    check_finite(state, "the model")


def separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give each tensor memory of its own: a view would take its whole base along."""
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
