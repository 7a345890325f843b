"""Initial weights of dense models: a classifier's for the backbone, or another trained detector's or segmenter's."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ropevit.models.architectures import Config
from ropevit.models.registry import PUBLISHED, model_name, variant_config
from ropevit.tasks.common.run_dir import detect_task
from ropevit.weights.dense import load_dense_weights
from ropevit.weights.errors import WeightsError
from ropevit.weights.metadata import differences

#: Value of `init` that stands for the published weights of the backbone's classifier.
PRETRAINED = "published"


@runtime_checkable
class BackboneOptions(Protocol):
    """The options that tasks have in common."""

    @property
    def model(self) -> str:
        """Family and size, such as deit_base."""
        ...

    @property
    def position(self) -> str:
        """Name of the position embedding."""
        ...

    @property
    def drop_path(self) -> float:
        """Rate of stochastic depth in the last block, growing from 0 in the first."""
        ...

    @property
    def window(self) -> int | None:
        """Side of a window in tokens; of the body only where it is a Swin."""
        ...

    @property
    def init(self) -> str | None:
        """`published`, a file or hub id, or None."""
        ...


def body_config(options: BackboneOptions) -> Config:
    """Give the config of the classifier whose body is the backbone's.

    Besides the named options, width, depth, heads and patch_size replace those of the named model where they are given.

    Raises:
        ValueError: If there is no such model or option.
    """
    names = ("width", "depth", "heads", "patch_size")
    changes = {name: value for name in names if (value := getattr(options, name)) is not None}
    if not options.model.startswith("swin"):
        changes["drop_path_rule"] = "linear"  # as ViTDet, BEiT and mmseg have it; the classifier's is constant
    elif options.window is not None:
        changes["window_size"] = options.window
    return variant_config(options.model, options.position, drop_path=options.drop_path, **changes)


def init_weights(options: BackboneOptions) -> str | None:
    """Say where the backbone's first weights come from; None for nowhere.

    Raises:
        ValueError: If the published weights are asked for, and there are none.
    """
    if options.init != PRETRAINED:
        return options.init
    name = model_name(options.model, options.position)
    if name not in PUBLISHED:
        raise ValueError(f"{name} has no published weights; give a file of them as init, or None to start anew")
    return name


def init_backbone(backbone: nn.Module, options: BackboneOptions) -> None:
    """Load the classifier's weights that a `DenseViT` or `DenseSwin` starts from, where the options name any.

    Raises:
        WeightsError: If they are those of a detector or segmenter, cannot be read, or do not fit.
    """
    source = init_weights(options)
    if source is None:
        return
    kind = detect_task(source)
    if kind != "classifier":
        raise WeightsError(
            f"{source} holds a {kind}; a backbone starts from a classifier: give the file of one as init"
        )
    load_dense_weights(backbone, source)


def backbone_shape(backbone: Any) -> dict[str, Any]:
    """List what makes weights those of a backbone; where LayerScale starts and what training drops do not matter.

    Args:
        backbone: The config of a dense ViT or Swin.
    """
    fields = asdict(replace(backbone, body=replace(backbone.body, drop_path=0.0)))
    body = fields.pop("body")
    body["layer_scale"] = body.get("layer_scale") is not None
    return body | fields


def check_compatible(kind: str, theirs: Mapping[str, Any], ours: Mapping[str, Any], source: str) -> None:
    """Refuse the weights of another detector or segmenter, also where no shape shows it.

    Raises:
        WeightsError: Naming what differs.
    """
    if theirs != ours:
        raise WeightsError(
            f"{source} holds another {kind} ({differences(theirs, ours)}); give its options, or a classifier as init"
        )


def load_message(kind: str, stored: Sequence[str], classes: Sequence[str], source: str, parts: tuple[str, str]) -> str:
    """Say what was taken of another detector or segmenter.

    Args:
        kind: What it is.
        stored: Names of its classes.
        classes: Names of the new classes.
        source: Where its weights come from.
        parts: What is taken, and what is new, where the classes are not the same.
    """
    if list(stored) == list(classes):
        return f"took all weights of the {kind} {source}, whose {len(classes)} classes are the same"
    return (
        f"took {parts[0]} of the {kind} {source}; {parts[1]} are new, as its {len(stored)} classes are not the "
        f"{len(classes)} of these data"
    )
