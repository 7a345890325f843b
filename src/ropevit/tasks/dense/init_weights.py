"""Initial weights of detectors and segmenters: a classifier's for the backbone, or another model's of the same task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from ropevit.tasks.dense.backbone import PRETRAINED, BackboneOptions
from ropevit.tasks.dense.model_file import ConfigT, ModelFormat, ModelT
from ropevit.tasks.registry import CLASSIFY, TASKS
from ropevit.tasks.runs.run_dir import task_of_checkpoint
from ropevit.weights.dense import load_dense_weights
from ropevit.weights.errors import WeightsError
from ropevit.weights.metadata import differences


def init_model(
    spec: ModelFormat[ConfigT, ModelT],
    config: ConfigT,
    classes: Sequence[str],
    notify: Callable[[str], object] = lambda _: None,
) -> ModelT:
    """Build a detector or segmenter and load its initial weights, if its config names any.

    A classifier's weights are loaded into the backbone. A model of the same task gives all its weights, except those of
    its classification layers (`spec.class_prefixes`) if the class names, in order, differ.

    Args:
        spec: File format of the task's models.
        config: Options of the model.
        classes: Names of its classes, in the order of the logits.
        notify: Called with a line about the weights that were loaded from a model of the same task.

    Raises:
        WeightsError: If the weights cannot be read, or do not match the model.
    """
    model, source = spec.build(config, len(classes)), config.init_source()
    if source is None:
        return model
    if config.init == PRETRAINED or task_of_checkpoint(source).noun != spec.task:
        _init_backbone(model.get_submodule("backbone"), source)
        return model
    entries, info = spec.read(source)
    _check_compatible(spec.task, spec.signature(info.config), spec.signature(config), source)
    state = spec.from_file(entries)
    if info.classes != list(classes):
        own = model.state_dict()
        state = state | {name: own[name] for name in own if name.startswith(spec.class_prefixes)}
    spec.load_state(model, state, source)
    notify(_load_message(spec, info.classes, classes, source))
    return model


def freeze_backbone(model: nn.Module, config: BackboneOptions, notify: Callable[[str], object]) -> None:
    """Freeze the body of a detector's or segmenter's backbone.

    Args:
        model: The detector or segmenter.
        config: Its options.
        notify: Called with a line if the frozen weights are random.
    """
    if config.init is None:
        notify("the frozen backbone has random weights; give those of a classifier as --init-from")
    model.get_submodule("backbone").freeze()  # pyright: ignore[reportCallIssue]


def _init_backbone(backbone: nn.Module, source: str) -> None:
    """Load a classifier's weights into a backbone.

    Raises:
        WeightsError: If they are those of a detector or segmenter, cannot be read, or do not match the backbone.
    """
    task = task_of_checkpoint(source)
    if task is not TASKS[CLASSIFY]:
        raise WeightsError(
            f"{source} holds a {task.noun}; expected a classifier or a model of the same task as --init-from"
        )
    load_dense_weights(backbone, source)


def backbone_signature(backbone: Any) -> dict[str, Any]:
    """Return the options that must agree for a backbone's weights to be compatible.

    Drop path and the initial value of LayerScale are left out, as they do not matter for trained weights.

    Args:
        backbone: The config of a dense ViT or Swin.
    """
    fields = asdict(replace(backbone, body=replace(backbone.body, drop_path=0.0)))
    body = fields.pop("body")
    body["layer_scale"] = body.get("layer_scale") is not None
    return body | fields


def _check_compatible(task: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], source: str) -> None:
    """Raise WeightsError for the weights of an incompatible detector or segmenter, even if all shapes agree.

    Raises:
        WeightsError: Naming the options that differ.
    """
    if theirs != ours:
        raise WeightsError(
            f"{source} holds an incompatible {task} ({differences(theirs, ours)}); give its options, or a classifier "
            "as --init-from"
        )


def _load_message(spec: ModelFormat[Any, Any], stored: Sequence[str], classes: Sequence[str], source: str) -> str:
    """Return a line about the weights that were loaded from another detector or segmenter.

    Args:
        spec: File format of the task's models.
        stored: Names of the other model's classes.
        classes: Names of the new model's classes.
        source: File or hub id of the other model.
    """
    if list(stored) == list(classes):
        return f"loaded all weights of the {spec.task} {source}, which has the same {len(classes)} classes"
    loaded, new = spec.parts
    return (
        f"loaded {loaded} of the {spec.task} {source}; {new} are newly initialized, as its {len(stored)} classes "
        f"differ from the {len(classes)} of the data"
    )
