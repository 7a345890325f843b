"""Initial weights of detectors and segmenters: a classifier's for the backbone, or another model's of the same task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from ropevit.tasks.common.run_dir import task_of_checkpoint
from ropevit.tasks.dense.backbone import PRETRAINED
from ropevit.tasks.dense.model_file import ConfigT, ModelFormat, ModelT
from ropevit.tasks.registry import CLASSIFY, TASKS
from ropevit.weights.dense import load_dense_weights
from ropevit.weights.errors import WeightsError
from ropevit.weights.metadata import differences


def init_model(
    spec: ModelFormat[ConfigT, ModelT],
    config: ConfigT,
    classes: Sequence[str],
    notify: Callable[[str], object] = lambda _: None,
) -> ModelT:
    """Build a detector or segmenter and load the initial weights that its config names, if any.

    A classifier's weights go into the backbone. Of a model of the same task all weights are taken, except those of its
    classes (`spec.class_prefixes`) where the class names, in order, are not the same.

    Args:
        spec: Which kind of model.
        config: What to build.
        classes: Names of its classes, in the order of the logits.
        notify: Called with a line about what was taken of another detector or segmenter.

    Raises:
        WeightsError: If the weights cannot be read, or do not fit.
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


def _init_backbone(backbone: nn.Module, source: str) -> None:
    """Load a classifier's weights into a `DenseViT` or `DenseSwin`.

    Raises:
        WeightsError: If they are those of a detector or segmenter, cannot be read, or do not fit.
    """
    task = task_of_checkpoint(source)
    if task is not TASKS[CLASSIFY]:
        raise WeightsError(
            f"{source} holds a {task.noun}; a backbone starts from a classifier: give the file of one as init"
        )
    load_dense_weights(backbone, source)


def backbone_signature(backbone: Any) -> dict[str, Any]:
    """List the options on which the meaning of a backbone's weights depends.

    Drop path and the initial value of LayerScale are left out, as trained weights do not depend on them.

    Args:
        backbone: The config of a dense ViT or Swin.
    """
    fields = asdict(replace(backbone, body=replace(backbone.body, drop_path=0.0)))
    body = fields.pop("body")
    body["layer_scale"] = body.get("layer_scale") is not None
    return body | fields


def _check_compatible(task: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], source: str) -> None:
    """Refuse the weights of another detector or segmenter, even where all shapes agree.

    Raises:
        WeightsError: Naming the options that differ.
    """
    if theirs != ours:
        raise WeightsError(
            f"{source} holds another {task} ({differences(theirs, ours)}); give its options, or a classifier as init"
        )


def _load_message(spec: ModelFormat[Any, Any], stored: Sequence[str], classes: Sequence[str], source: str) -> str:
    """Describe which weights of another detector or segmenter were taken.

    Args:
        spec: Which kind of model.
        stored: Names of its classes.
        classes: Names of the new classes.
        source: Where its weights come from.
    """
    if list(stored) == list(classes):
        return f"took all weights of the {spec.task} {source}, whose {len(classes)} classes are the same"
    taken, new = spec.parts
    return (
        f"took {taken} of the {spec.task} {source}; {new} are new, as its {len(stored)} classes are not the "
        f"{len(classes)} of these data"
    )
