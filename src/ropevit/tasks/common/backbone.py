"""Options of the backbone of a detector or a segmenter: which classifier's body, and where its weights come from."""

from typing import Protocol, runtime_checkable

from torch import nn

from ropevit.models.architectures import Config
from ropevit.models.registry import PUBLISHED, model_name, variant_config
from ropevit.tasks.common.run_files import detect_task
from ropevit.weights.dense import load_dense_weights
from ropevit.weights.errors import WeightsError

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
