"""The first weights of a detector: of a classifier, or of another detector."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ropevit.tasks.common.run_dir import detect_task
from ropevit.tasks.dense.init_weights import PRETRAINED, backbone_shape, check_compatible, init_backbone, load_message
from ropevit.tasks.detect.detrex import from_detrex, to_detrex
from ropevit.tasks.detect.model import DetectModel, Detector, load_weights_into, read_detector

#: Fields of DINO by which its weights are those of one detector and not of another; the classes apart.
SHAPE_FIELDS = ("queries", "width", "heads", "levels", "points", "mlp_width", "encoder_layers", "decoder_layers")

#: How weights of DINO begin that belong to classes.
CLASS_PREFIXES = ("class_heads.", "label_embedding.")

#: What is taken of a detector of other classes, and what is not.
PARTS = "the backbone and DINO", "class heads and the embedding of labels"


def init_detector(
    config: DetectModel, classes: Sequence[str], say: Callable[[str], object] = lambda _: None
) -> Detector:
    """Build a detector that starts from the weights that its config names, if any.

    Those of a classifier are for the backbone; of a detector, all are taken, but for what belongs to its classes where
    they are not the same, in the same order.

    Args:
        config: The detector.
        classes: Names of its classes, in the order of the logits.
        say: Called with a line about what was taken of another detector.

    Raises:
        WeightsError: If they cannot be read, or do not fit.
    """
    model, source = Detector(config, len(classes)), config.weights()
    if source is None:
        return model
    if config.init == PRETRAINED or detect_task(source) != "detector":
        init_backbone(model.backbone, config)
        return model
    entries, info = read_detector(source)
    check_compatible("detector", shape(info.config), shape(config), source)
    load_weights_into(model, entries if info.classes == list(classes) else mixed(model, entries), source)
    say(load_message("detector", info.classes, classes, source, PARTS))
    return model


def mixed(model: Detector, entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put a new detector's own weights in the place of those that belong to other classes."""
    backbone = {name: value for name, value in entries.items() if name.startswith("backbone.")}
    theirs = from_detrex({name: value for name, value in entries.items() if name not in backbone})
    own = {name: value for name, value in model.dino.state_dict().items() if name.startswith(CLASS_PREFIXES)}
    kept = {name: value for name, value in theirs.items() if not name.startswith(CLASS_PREFIXES)}
    return backbone | to_detrex(kept | own)


def shape(config: DetectModel) -> dict[str, Any]:
    """List what makes weights those of this detector."""
    return backbone_shape(config.backbone()) | {f"dino.{name}": getattr(config.dino, name) for name in SHAPE_FIELDS}
