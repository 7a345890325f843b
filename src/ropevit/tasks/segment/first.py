"""The first weights of a segmenter: of a classifier, or of another segmenter."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ropevit.tasks.common.backbone import PRETRAINED, start_backbone
from ropevit.tasks.common.first import backbone_shape, check_same, taken
from ropevit.tasks.common.kept import kind_of
from ropevit.tasks.segment.model import SegmentationModel
from ropevit.tasks.segment.segmenter import (
    SegmentModel,
    build_segmenter,
    fill,
    read_segmenter,
)

#: Fields of each head by which its weights are those of one segmenter and not of another; the classes apart.
SHAPING = {
    "upernet": ("channels", "pool_sizes", "auxiliary_map", "auxiliary_channels"),
    "mask2former": (
        "queries",
        "width",
        "heads",
        "encoder_layers",
        "encoder_mlp_width",
        "decoder_layers",
        "decoder_mlp_width",
    ),
}

#: How weights begin that belong to classes.
OF_CLASSES = ("head.classifier.", "auxiliary_head.classifier.", "classifier.")

#: What is taken of a segmenter of other classes, and what is not.
PARTS = "the backbone and the head", "the layers of classes"


def first_segmenter(
    config: SegmentModel, classes: Sequence[str], say: Callable[[str], object] = lambda _: None
) -> SegmentationModel:
    """Build a segmenter that starts from the weights that its config names, if any.

    Those of a classifier are for the backbone; of a segmenter, all are taken, but for the layers of its classes where
    they are not the same, in the same order.

    Args:
        config: The segmenter.
        classes: Names of its classes, in the order of the scores.
        say: Called with a line about what was taken of another segmenter.

    Raises:
        WeightsError: If they cannot be read, or do not fit.
    """
    model, source = build_segmenter(config, len(classes)), config.weights()
    if source is None:
        return model
    if config.init == PRETRAINED or kind_of(source) != "segmenter":
        start_backbone(model.backbone, config)
        return model
    entries, info = read_segmenter(source)
    check_same("segmenter", shape(info.config), shape(config), source)
    own: dict[str, Tensor] = {}
    if info.classes != list(classes):
        own = {name: value for name, value in model.state_dict().items() if name.startswith(OF_CLASSES)}
    fill(model, {**entries, **own}, source)
    say(taken("segmenter", info.classes, classes, source, PARTS))
    return model


def shape(config: SegmentModel) -> dict[str, Any]:
    """List what makes weights those of this segmenter."""
    head = {f"{config.head}.{name}": getattr(getattr(config, config.head), name) for name in SHAPING[config.head]}
    return {"head": config.head, "neck": config.neck} | backbone_shape(config.backbone()) | head
