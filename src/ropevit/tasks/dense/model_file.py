"""Files of trained detectors and segmenters: safetensors with config, classes and metadata in the header."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from ropevit.rope import CONVENTION
from ropevit.tasks.dense.backbone import BackboneOptions
from ropevit.weights.described import build_without_memory, check_size_of_model
from ropevit.weights.errors import WeightsError, first_line
from ropevit.weights.metadata import check_convention, fact, stored_classes, stored_facts, stored_json
from ropevit.weights.reading import read_checkpoint
from ropevit.weights.saving import write_safetensors

ConfigT = TypeVar("ConfigT", bound=BackboneOptions)
ModelT = TypeVar("ModelT", bound=nn.Module)

#: Mean and standard deviation of the pixels: one number for all channels, or one for each.
PIXELS = float | tuple[float, ...]


@dataclass(frozen=True)
class ModelInfo(Generic[ConfigT]):
    """What the header of a model's file says."""

    config: ConfigT
    """What the model is built from."""
    classes: list[str]
    """Names of its classes, in the order of the logits."""
    metadata: dict[str, Any]
    """Whatever else was saved with it, such as how images are resized and normalised."""


@dataclass(frozen=True, kw_only=True)
class ModelFormat(Generic[ConfigT, ModelT]):
    """How one kind of dense model is built, saved, loaded and started from another one."""

    format: str
    """Value of "format" in the header."""
    task: str
    """What messages call the model: detector or segmenter."""
    config: type[ConfigT]
    """Its options."""
    build: Callable[[ConfigT, int], ModelT]
    """Builds it from its options and the number of classes, with random weights."""
    signature: Callable[[ConfigT], dict[str, Any]]
    """Options on which the meaning of its weights depends."""
    class_prefixes: tuple[str, ...]
    """How the names of weights begin that belong to classes."""
    parts: tuple[str, str]
    """What is taken of a model with other classes, and what is new then, in words."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Types of the metadata that a training writes; checked where they are present."""
    to_file: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    """Renames the entries of a state dict to those of a file."""
    from_file: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    """Renames the entries of a file to those of a state dict."""

    def save(
        self, path: Path, model: ModelT, config: ConfigT, classes: Sequence[str], metadata: Mapping[str, Any]
    ) -> None:
        """Save a model so that `load` can build it again.

        Args:
            path: Where to; an existing file is replaced in one step.
            model: The model.
            config: What it was built from.
            classes: Names of its classes, in the order of the logits.
            metadata: Anything else that JSON can hold.

        Raises:
            WeightsError: If the file cannot be written.
        """
        self.write(path, config, classes, metadata, self.to_file(model.state_dict()))

    def write(
        self,
        path: Path,
        config: ConfigT,
        classes: Sequence[str],
        metadata: Mapping[str, Any],
        weights: Mapping[str, Tensor],
    ) -> None:
        """Write weights under the names of a file; otherwise as `save`."""
        header = {
            "format": self.format,
            "config": json.dumps(config.to_dict()),
            "convention": json.dumps(CONVENTION),
            "classes": json.dumps(list(classes)),
            "metadata": json.dumps(dict(metadata)),
        }
        write_safetensors(path, weights, header)

    def load(self, path: Path | str) -> tuple[ModelT, ModelInfo[ConfigT]]:
        """Build the model that `save` saved, with its weights.

        Raises:
            WeightsError: If the file cannot be read, or holds no such model.
        """
        entries, info = self.read(path)
        build = partial(self.build, info.config, len(info.classes))
        state = self.from_file(entries)
        check_size_of_model(build_without_memory(build, len(entries), str(path)).state_dict(), state, str(path))
        model = build()
        model.load_state_dict(state)
        return model, info

    def read(self, path: Path | str) -> tuple[Mapping[str, Tensor], ModelInfo[ConfigT]]:
        """Read the weights, under the names of the file, and the header.

        Raises:
            WeightsError: If the file cannot be read, is of another kind, or follows another convention.
        """
        found = read_checkpoint(str(path))
        if found.metadata.get("format") != self.format:
            raise WeightsError(f"{path} is no {self.task} of ours; give a file that a training of a {self.task} wrote")
        check_convention(found.metadata, str(path))
        classes = stored_classes(found.metadata, None, str(path))
        if not classes:
            raise WeightsError(f"{path} names no classes; give a file that a training of a {self.task} wrote")
        metadata = stored_facts(found.metadata, str(path))
        for name in self.metadata:
            if metadata.get(name) is not None:  # null counts as missing
                fact(metadata, name, self.metadata[name], str(path))
        return found.entries, ModelInfo(self.read_config(found.metadata, path), classes, metadata)

    def read_config(self, header: Mapping[str, str], path: Path | str) -> ConfigT:
        """Read the config in a header.

        Raises:
            WeightsError: If a field has a wrong name or type, or the config describes no valid model.
        """
        stored = stored_json(header, "config", str(path))
        try:
            return self.config.from_dict(stored)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise WeightsError(f"the config in {path} describes no {self.task}: {first_line(error)}") from error

    def load_state(self, model: ModelT, state: Mapping[str, Tensor], source: str) -> None:
        """Load a state dict, all of whose names and shapes must be the model's.

        Raises:
            WeightsError: If any is missing, unknown or of another shape.
        """
        check_size_of_model(model.state_dict(), state, source)
        model.load_state_dict(dict(state))
