"""The kinds of probes: of image features for images of classes, and of patch features for images with masks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from ropevit.tasks.classify.tune_scaling import decode_marks, encode_marks
from ropevit.tasks.evaluation.passes import Codec
from ropevit.tasks.probe.bootstrap import iou_difference, iou_interval
from ropevit.tasks.probe.intervals import Interval, accuracy_difference, accuracy_interval
from ropevit.tasks.segment.mean_iou import decode_pixels, encode_pixels


@dataclass(frozen=True, kw_only=True)
class ProbeKind:
    """What the probes of one kind of data measure, and with which intervals."""

    name: str
    """Kind of the features: image or patch."""
    probes: Mapping[str, str]
    """The probes, in the order of their results, and what they are called."""
    axes: Mapping[str, str]
    """Axis labels of the probes."""
    score: str
    """What they measure."""
    codec: Codec
    """Writes and reads the counts of each test image."""
    interval: Callable[[Tensor], Interval]
    """Returns the score of counts."""
    difference: Callable[[Tensor, Tensor], Interval]
    """Returns the difference of two scores on the same images."""
    facts: Mapping[str, type] = field(default_factory=dict)
    """Further entries of a pass that are copied to its row, with their types."""


#: Probes of one feature vector for each image; counts are correct and all predictions, (n, 2).
IMAGE = ProbeKind(
    name="image",
    probes={"knn": "k-NN", "linear": "linear probe"},
    axes={"knn": "k-NN accuracy", "linear": "accuracy of a linear probe"},
    score="accuracy",
    codec=Codec(encode_marks, decode_marks),
    interval=accuracy_interval,
    difference=accuracy_difference,
)


def patch_kind(classes: int) -> ProbeKind:
    """Return the probe of one feature vector for each patch; counts are pixels of each class, (n, K, 3).

    Args:
        classes: Number of classes of the masks, K.
    """
    return ProbeKind(
        name="patch",
        probes={"iou": "linear probe"},
        axes={"iou": "mean IoU of a linear probe of patches"},
        score="mean IoU",
        codec=Codec(encode_pixels, partial(decode_pixels, classes=classes)),
        interval=iou_interval,
        difference=iou_difference,
        facts={"skipped": int, "patches": int, "patch_classes": int, "majority": int},
    )
