"""The first weights of a segmenter: of a classifier, or of another segmenter."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from ropevit.tasks.common.backbone import PRETRAINED, start_backbone
from ropevit.tasks.common.kept import kind_of
from ropevit.tasks.segment.model import SegmentationModel
from ropevit.tasks.segment.segmenter import (
    SegmenterInfo,
    SegmentModel,
    build_segmenter,
    fill,
    read_segmenter,
)
from ropevit.weights.errors import WeightsError
from ropevit.weights.own import differences

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
    check_same(info.config, config, source)
    own: dict[str, Tensor] = {}
    if info.classes != list(classes):
        own = {name: value for name, value in model.state_dict().items() if name.startswith(OF_CLASSES)}
    fill(model, {**entries, **own}, source)
    say(taken(info, classes, source))
    return model


def taken(info: SegmenterInfo, classes: Sequence[str], source: str) -> str:
    """Say what was taken of another segmenter."""
    if info.classes == list(classes):
        return f"took all weights of the segmenter {source}, whose {len(classes)} classes are the same"
    return (
        f"took the backbone and the head of the segmenter {source}; the layers of classes are new, as its "
        f"{len(info.classes)} classes are not the {len(classes)} of these data"
    )


def check_same(stored: SegmentModel, config: SegmentModel, source: str) -> None:
    """Refuse the weights of another segmenter, also where no shape shows it.

    Raises:
        WeightsError: Naming what differs.
    """
    theirs, ours = shape(stored), shape(config)
    if theirs != ours:
        raise WeightsError(
            f"{source} holds another segmenter ({differences(theirs, ours)}); give its options, or a classifier as init"
        )


def shape(config: SegmentModel) -> dict[str, Any]:
    """List what makes weights those of this segmenter."""
    backbone = config.backbone()
    fields = asdict(replace(backbone, body=replace(backbone.body, drop_path=0.0)))  # pyright: ignore[reportArgumentType, reportCallIssue]
    body = fields.pop("body")
    body["layer_scale"] = body.get("layer_scale") is not None  # where it starts does not matter
    head = {f"{config.head}.{name}": getattr(getattr(config, config.head), name) for name in SHAPING[config.head]}
    return {"head": config.head, "neck": config.neck} | body | fields | head
