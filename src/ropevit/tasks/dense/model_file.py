"""Files of trained detectors and segmenters: safetensors with what they are in the header."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ropevit.rope import CONVENTION
from ropevit.weights.errors import WeightsError, first_line
from ropevit.weights.fields import from_json
from ropevit.weights.metadata import check_convention, fact, stored_classes, stored_facts, stored_json
from ropevit.weights.reading import read_checkpoint
from ropevit.weights.saving import write_safetensors

Config = TypeVar("Config")

#: Mean and spread of the pixels: one number for all channels, or one for each.
PIXELS = float | tuple[float, ...]


@dataclass(frozen=True)
class ModelFile:
    """What such a file holds."""

    fields: Any
    """The config, as JSON holds it."""
    classes: list[str]
    """Names of the classes, in the order of the logits."""
    metadata: dict[str, Any]
    """Whatever else was saved."""
    entries: Mapping[str, Tensor]
    """The weights."""


@dataclass(frozen=True)
class FileFormat:
    """Names of one kind of file.

    >>> SavedAs("ropevit-segmenter", "segmenter").read(path)
    """

    format: str
    """Value of "format" in the header."""
    kind: str
    """What errors call it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Types of what a training saves beside the weights, where it is there."""

    def write(
        self,
        path: Path,
        config: Any,
        classes: Sequence[str],
        metadata: Mapping[str, Any],
        weights: Mapping[str, Tensor],
    ) -> None:
        """Write a file; one that is there is replaced in one step.

        Raises:
            WeightsError: If the disk refuses.
        """
        header = {
            "format": self.format,
            "config": json.dumps(asdict(config)),
            "convention": json.dumps(CONVENTION),
            "classes": json.dumps(list(classes)),
            "metadata": json.dumps(dict(metadata)),
        }
        write_safetensors(path, weights, header)

    def read(self, path: Path | str) -> ModelFile:
        """Read a file.

        Raises:
            WeightsError: If it cannot be read, is of another kind, or follows another convention.
        """
        found = read_checkpoint(str(path))
        if found.metadata.get("format") != self.format:
            raise WeightsError(f"{path} is no {self.kind} of ours; give a file that a training of a {self.kind} wrote")
        check_convention(found.metadata, str(path))
        classes = stored_classes(found.metadata, None, str(path))
        if not classes:
            raise WeightsError(f"{path} names no classes; give a file that a training of a {self.kind} wrote")
        facts = stored_facts(found.metadata, str(path))
        for name in self.facts:
            if facts.get(name) is not None:  # null says nothing, as if it were not there
                fact(facts, name, self.facts[name], str(path))
        return ModelFile(stored_json(found.metadata, "config", str(path)), classes, facts, found.entries)

    def config(self, saved: ModelFile, kind: type[Config], path: Path | str) -> Config:
        """Give the config that a file holds.

        Raises:
            WeightsError: If it has a field of a wrong name or type, or describes nothing that can be built.
        """
        try:
            return from_json(kind, saved.fields)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise WeightsError(f"the config in {path} describes no {self.kind}: {first_line(error)}") from error
