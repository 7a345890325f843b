"""The first weights of a segmenter: of a classifier, or of another segmenter."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ropevit.tasks.common.run_dir import detect_task
from ropevit.tasks.dense.init_weights import PRETRAINED, backbone_shape, check_compatible, init_backbone, load_message
from ropevit.tasks.segment.base import SegmentationModel
from ropevit.tasks.segment.model import (
    SegmentModel,
    build_segmenter,
    load_weights_into,
    read_segmenter,
)

#: Fields of each head by which its weights are those of one segmenter and not of another; the classes apart.
SHAPE_FIELDS = {
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
CLASS_PREFIXES = ("head.classifier.", "auxiliary_head.classifier.", "classifier.")

#: What is taken of a segmenter of other classes, and what is not.
PARTS = "the backbone and the head", "the layers of classes"


def init_segmenter(
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
    if config.init == PRETRAINED or detect_task(source) != "segmenter":
        init_backbone(model.backbone, config)
        return model
    entries, info = read_segmenter(source)
    check_compatible("segmenter", shape(info.config), shape(config), source)
    own: dict[str, Tensor] = {}
    if info.classes != list(classes):
        own = {name: value for name, value in model.state_dict().items() if name.startswith(CLASS_PREFIXES)}
    load_weights_into(model, {**entries, **own}, source)
    say(load_message("segmenter", info.classes, classes, source, PARTS))
    return model


def shape(config: SegmentModel) -> dict[str, Any]:
    """List what makes weights those of this segmenter."""
    head = {f"{config.head}.{name}": getattr(getattr(config, config.head), name) for name in SHAPE_FIELDS[config.head]}
    return {"head": config.head, "neck": config.neck} | backbone_shape(config.backbone()) | head
