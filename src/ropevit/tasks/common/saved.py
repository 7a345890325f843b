"""Files of trained detectors and segmenters: safetensors with what they are in the header."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ropevit.rope import CONVENTION
from ropevit.weights.errors import WeightsError
from ropevit.weights.own import differences, stored_json
from ropevit.weights.reading import read_checkpoint
from ropevit.weights.saving import write_safetensors


@dataclass(frozen=True)
class Saved:
    """What such a file holds."""

    fields: dict[str, Any]
    """The config, as JSON holds it, with tuples for lists."""
    classes: list[str]
    """Names of the classes, in the order of the logits."""
    metadata: dict[str, Any]
    """Whatever else was saved."""
    entries: Mapping[str, Tensor]
    """The weights."""


@dataclass(frozen=True)
class SavedAs:
    """Names of one kind of file.

    >>> SavedAs("ropevit-segmenter", "segmenter").read(path)
    """

    format: str
    """Value of "format" in the header."""
    kind: str
    """What errors call it."""

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

    def read(self, path: Path | str) -> Saved:
        """Read a file.

        Raises:
            WeightsError: If it cannot be read, is of another kind, or follows another convention.
        """
        found = read_checkpoint(str(path))
        if found.metadata.get("format") != self.format:
            raise WeightsError(f"{path} is no {self.kind} of ours; give a file that a training of a {self.kind} wrote")
        names = ("config", "convention", "classes", "metadata")
        fields, convention, classes, metadata = (stored_json(found.metadata, name, str(path)) for name in names)
        if convention != CONVENTION:
            raise WeightsError(
                f"{path} follows another convention ({differences(convention, CONVENTION)}); "
                "load it with the version of ropevit that wrote it"
            )
        return Saved({name: tupled(value) for name, value in fields.items()}, classes, metadata, found.entries)


def tupled(value: Any) -> Any:
    """Turn JSON's lists into tuples, which configs hold."""
    if isinstance(value, dict):
        return {name: tupled(inner) for name, inner in value.items()}
    return tuple(map(tupled, value)) if isinstance(value, list) else value
