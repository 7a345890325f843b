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
from ropevit.weights.errors import WeightsError, first_line
from ropevit.weights.file_config import build_without_memory, check_matches_config
from ropevit.weights.metadata import check_convention, metadata_value, stored_classes, stored_json, stored_metadata
from ropevit.weights.reading import read_checkpoint
from ropevit.weights.saving import write_safetensors

ConfigT = TypeVar("ConfigT", bound=BackboneOptions)
ModelT = TypeVar("ModelT", bound=nn.Module)

#: Type of mean and std of the pixels: one number for all channels, or one per channel.
ChannelValues = float | tuple[float, ...]


@dataclass(frozen=True)
class ModelInfo(Generic[ConfigT]):
    """The header of a model's file."""

    config: ConfigT
    """Config of the model."""
    classes: list[str]
    """Names of its classes, in the order of the logits."""
    metadata: dict[str, Any]
    """Other metadata, such as how images are resized and normalized."""


@dataclass(frozen=True, kw_only=True)
class ModelFormat(Generic[ConfigT, ModelT]):
    """The file format of one kind of dense model: how to build, save, load and initialize it."""

    format: str
    """Value of "format" in the header."""
    task: str
    """Name of the model in messages: detector or segmenter."""
    config: type[ConfigT]
    """Class of its config."""
    build: Callable[[ConfigT, int], ModelT]
    """Builds the model from its config and the number of classes, with random weights."""
    signature: Callable[[ConfigT], dict[str, Any]]
    """Returns the options that must be equal for one model's weights to initialize another."""
    class_prefixes: tuple[str, ...]
    """Prefixes of the weights whose shape depends on the classes."""
    parts: tuple[str, str]
    """For messages, if the classes differ: the loaded parts and the newly initialized ones."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Types of the metadata that a training writes; checked if present."""
    to_file: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    """Renames the entries of a state dict to those of a file."""
    from_file: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    """Renames the entries of a file to those of a state dict."""

    def save(
        self, path: Path, model: ModelT, config: ConfigT, classes: Sequence[str], metadata: Mapping[str, Any]
    ) -> None:
        """Save a model so that `load` can build it again.

        Args:
            path: The file to write; an existing file is replaced atomically.
            model: The model.
            config: Its config.
            classes: Names of its classes, in the order of the logits.
            metadata: Anything else that JSON can represent.

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
        """Write weights that already have the names of the file; the other arguments are those of `save`."""
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
        check_matches_config(build_without_memory(build, len(entries), str(path)).state_dict(), state, str(path))
        model = build()
        model.load_state_dict(state)
        return model, info

    def read(self, path: Path | str) -> tuple[Mapping[str, Tensor], ModelInfo[ConfigT]]:
        """Read the weights, under the names of the file, and the header.

        Raises:
            WeightsError: If the file cannot be read, has another format, or follows another rotation convention.
        """
        found = read_checkpoint(str(path))
        if found.metadata.get("format") != self.format:
            raise WeightsError(f"{path} is not a {self.task} file; give one that the training of a {self.task} saved")
        check_convention(found.metadata, str(path))
        classes = stored_classes(found.metadata, None, str(path))
        if not classes:
            raise WeightsError(f"{path} names no classes; give a file that the training of a {self.task} saved")
        metadata = stored_metadata(found.metadata, str(path))
        for name in self.metadata:
            if metadata.get(name) is not None:  # null counts as missing
                metadata_value(metadata, name, self.metadata[name], str(path))
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
            raise WeightsError(
                f"the config in {path} is not a valid config of a {self.task}: {first_line(error)}; save the model "
                "again"
            ) from error

    def load_state(self, model: ModelT, state: Mapping[str, Tensor], source: str) -> None:
        """Load a state dict, all of whose names and shapes must be the model's.

        Raises:
            WeightsError: If any is missing, unknown or of another shape.
        """
        check_matches_config(model.state_dict(), state, source)
        model.load_state_dict(dict(state))
