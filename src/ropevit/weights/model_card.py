"""Model cards: the README.md of a model on the hub, with front matter in YAML, from the header of its file."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ropevit.text import printable
from ropevit.weights.metadata import stored_json
from ropevit.weights.reading import Checkpoint

#: Endings of the names of entries that are not parameters.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
#: Maximum number of class names that a card lists.
_MAX_CLASSES = 100
#: Maximum length of a cell of a table.
_MAX_CELL = 200
#: Metrics that the hub knows by another name.
_HUB_METRICS = {"top-1": "accuracy", "miou": "mean_iou"}


@dataclass(frozen=True, kw_only=True)
class CardScore:
    """A score, for the model index of a card."""

    data: str
    """Name of the data."""
    metric: str
    """Name of the metric, such as top-1."""
    value: float
    """The score."""
    setting: str
    """How it was measured, such as 224 px."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """The content of a model card besides the header of the file."""

    name: str
    """Title, and name in the model index."""
    noun: str
    """What the model is, such as classifier."""
    usage: str
    """How to load and run it, in Markdown."""
    pipeline_tag: str | None
    """Task, as the hub names it, such as image-classification."""
    license: str | None = None
    """License of the weights, by the hub's identifier; None if its owner has not named one."""
    base_model: str | None = None
    """Hub id of the weights that the training started from."""
    sections: Mapping[str, str] = field(default_factory=dict)
    """Further sections in Markdown, by heading."""
    scores: Sequence[CardScore] = ()
    """Scores for the model index."""

    def render(self, file: Checkpoint) -> str:
        """Return the card as Markdown with front matter.

        Args:
            file: The weight file of this package that the card is about.

        Raises:
            WeightsError: If its header is damaged.
        """
        config, classes, metadata = (
            stored_json(file.metadata, key, file.source) for key in ("config", "classes", "metadata")
        )
        sections = {
            "Use": self.usage,
            "Model": to_table(("field", "value"), _model_rows(file.entries, config)),
            "Metadata of the file": to_table(("key", "value"), flatten(metadata).items()),
            "Classes": _list_classes(classes),
            **self.sections,
        }
        body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items() if text)
        front = self.front_matter(file.metadata, config).to_yaml()
        return f"---\n{front}\n---\n\n# {self.name}\n\n{self._summary(file, config)}\n\n{body}\n"

    def _summary(self, file: Checkpoint, config: Mapping[str, Any]) -> str:
        """Return the first paragraph: what the model is, its rotation convention and its license."""
        position = _position(config)
        sentences = [f"A {self.noun} of the Python package `ropevit`, with the position embedding `{position}`."]
        if "rope" in position:
            convention = stored_json(file.metadata, "convention", file.source)
            sentences.append(
                f"Rotation convention: {'; '.join(f'{key}: {value}' for key, value in convention.items())}."
            )
        sentences.append(f"License of the weights: {self.license or 'not stated by their owner'}.")
        return " ".join(sentences)

    def front_matter(self, header: Mapping[str, str], config: Mapping[str, Any]) -> ModelCardData:
        """Return what the hub reads of a card; a license, base model or task that is not known is left out."""
        tags = dict.fromkeys(["ropevit", header.get("architecture"), _position(config)])
        return ModelCardData(
            library_name="ropevit",
            pipeline_tag=self.pipeline_tag,
            license=self.license,
            base_model=self.base_model,
            tags=[tag for tag in tags if tag],
            model_name=self.name if self.scores else None,
            eval_results=[self._result(score) for score in self.scores] or None,
        )

    def _result(self, score: CardScore) -> EvalResult:
        """Return the entry of a score in the model index."""
        metric = _slug(score.metric)
        return EvalResult(
            task_type=self.pipeline_tag or _slug(self.noun),
            dataset_type=_slug(score.data),
            dataset_name=score.data,
            metric_type=_HUB_METRICS.get(metric, metric),
            metric_value=round(score.value, 4),
            metric_name=f"{score.metric}, {score.setting}",
        )


def to_table(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; empty without rows. Words in cells are escaped."""
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in rows]
    return "\n".join([f"| {' | '.join(heading)} |", f"|{'---|' * len(heading)}", *lines]) if lines else ""


def flatten(values: object, prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one, with dotted names; entries that are None or empty are left out."""
    flat = {}
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif value is not None and value != [] and value != "":
            flat[f"{prefix}{name}"] = value
    return flat


def _cell(value: object) -> str:
    """Return the text of a cell of a table: words as they are, anything else as JSON."""
    text = printable(value if isinstance(value, str) else json.dumps(value))
    text = text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}..."
    return text.replace("|", "\\|").replace("<", "&lt;")


def _position(config: Mapping[str, Any]) -> str:
    """Return the name of the position embedding in a config, of a classifier or of a model with a backbone."""
    return str(next((value for key, value in flatten(config).items() if key.split(".")[-1] == "position"), "none"))


def _slug(name: str) -> str:
    """Return a name as an identifier of the hub: lower-case, with hyphens between the words."""
    return "-".join(re.findall(r"[^\W_]+", name.lower()))


def _model_rows(entries: Mapping[str, Any], config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the number of parameters and the fields of a config."""
    sizes = [math.prod(tensor.shape) for name, tensor in entries.items() if not name.endswith(_STATISTICS)]
    return [("parameters", f"{sum(sizes):,}"), *flatten(config).items()]


def _list_classes(classes: Sequence[str] | None) -> str:
    """Return the names of the classes in the order of the logits; the first ones if they are many."""
    if not classes:
        return ""
    shown = ", ".join(f"`{printable(name).replace('`', chr(39))}`" for name in classes[:_MAX_CLASSES])
    more = f", and {len(classes) - _MAX_CLASSES} more in the file" if len(classes) > _MAX_CLASSES else ""
    return f"{len(classes)}, in the order of the logits: {shown}{more}."
