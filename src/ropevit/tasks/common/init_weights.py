"""First weights of another trained dense model: what must be the same, and what is said about what was taken."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from ropevit.weights.errors import WeightsError
from ropevit.weights.metadata import differences


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
