"""From our models to those of transformers, with labels and an image processor."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageClassification, CLIPImageProcessor

from ropevit.data.imagenet import MEAN, STD, imagenet_classes
from ropevit.integrations.transformers.config import CONFIGS, RopeConfig
from ropevit.integrations.transformers.modeling import CLASSES, RopePreTrainedModel
from ropevit.models.architectures import architecture
from ropevit.models.sizes import check_size
from ropevit.weights.create import create_model
from ropevit.weights.loading import unwrap_model


def from_ropevit(
    model: nn.Module,
    auto: Any = AutoModelForImageClassification,
    *,
    classes: Sequence[str] | None = None,
    **fields: Any,
) -> RopePreTrainedModel:
    """Make a model of transformers from one of ours, with a copy of its weights.

    >>> model, info = ropevit.load_model("model.safetensors")
    >>> from_ropevit(model, classes=info.classes).save_pretrained("my_folder")

    Args:
        model: A model of this package, also compiled or wrapped for distributed training.
        auto: What to make: AutoModelForImageClassification, AutoModel or AutoBackbone.
        classes: Names of its classes, in the order of the logits.
        fields: Other fields of the config that are not the model's own, such as out_indices=[3, 6, 9, 12].

    Raises:
        ValueError: If the names are not as many as the classes, or the model cannot be made so.
    """
    if auto not in CLASSES:
        raise ValueError(f"got {auto!r}; expected one of {', '.join(each.__name__ for each in CLASSES)}")
    plain = unwrap_model(model)
    kind = CONFIGS.get(architecture(plain.config))
    if kind is None:
        raise ValueError(f"got a {type(plain).__name__}; transformers takes models of {', '.join(CONFIGS)} alone")
    own = asdict(plain.config)
    number = own.pop("num_classes")
    if taken := sorted(set(fields) & {*own, *kind.attribute_map, "num_labels", "id2label", "label2id"}):
        raise ValueError(f"got {', '.join(taken)}; the model decides that (see create_model), and classes= its labels")
    if classes is not None and len(classes) != number:
        raise ValueError(f"got {len(classes)} class names for a model of {number}; give one a class")
    labels = {} if classes is None else {"id2label": dict(enumerate(classes))}
    config = kind(**own, **fields, **labels, num_classes=number)  # pyright: ignore[reportCallIssue]
    with torch.device("meta"):
        outer = auto.from_config(config)
    outer.adopt(plain)
    return outer.train(plain.training)


def from_published(name: str, auto: Any = AutoModelForImageClassification, **fields: Any) -> RopePreTrainedModel:
    """Make a model of transformers with published weights, from the hub or its cache, and the names of ImageNet.

    Args:
        name: A name that `ropevit.list_models(pretrained=True)` lists.
        auto: As in `from_ropevit`.
        fields: As in `from_ropevit`.

    Raises:
        ValueError: As `from_ropevit`.
        WeightsError: If there are no such weights.
    """
    return from_ropevit(create_model(name, pretrained=True), auto, classes=imagenet_classes(), **fields)


def image_processor(
    config: RopeConfig, size: int | None = None, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> CLIPImageProcessor:
    """Make the image processor of the paper's evaluation: shorter side to the size, bicubic, then the centre square.

    >>> image_processor(model.config).save_pretrained("my_folder")

    Args:
        config: The model's.
        size: Side of the square in pixels; None takes the model's own.
        mean: Of each channel, for pixels from 0 to 1.
        std: Spread of each channel.

    Raises:
        ValueError: If the model does not take squares of that size in colour.
    """
    own = config.to_ropevit()
    if size is None and own.img_size[0] != own.img_size[1]:
        raise ValueError(f"got a model for {own.img_size[0]} x {own.img_size[1]} pixels; give the size of a square")
    if own.in_channels != 3:
        raise ValueError(f"got a model for {own.in_channels} channels; this processor makes images of 3")
    side = own.img_size[0] if size is None else size
    check_size(side, side, own.multiple)
    return CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(mean),
        image_std=list(std),
    )
