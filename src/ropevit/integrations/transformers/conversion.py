"""Converts our models to transformers models, with labels and an image processor."""

from collections.abc import Sequence
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
    """Build a transformers model from a ropevit model, with a copy of its weights.

    >>> model, info = ropevit.load_model("model.safetensors")
    >>> from_ropevit(model, classes=info.classes).save_pretrained("my_folder")

    Args:
        model: A model of this package, also compiled or wrapped for distributed training.
        auto: Class of the result: AutoModelForImageClassification, AutoModel or AutoBackbone.
        classes: Names of its classes, in the order of the logits.
        fields: Fields of the transformers config alone, such as out_indices=[3, 6, 9, 12].

    Raises:
        ValueError: If the number of names is not the number of classes, or the model cannot be converted to the class.
    """
    if auto not in CLASSES:
        raise ValueError(f"got {auto!r}; expected one of {', '.join(each.__name__ for each in CLASSES)}")
    plain = unwrap_model(model)
    config_class = CONFIGS.get(architecture(plain.config))
    if config_class is None:
        raise ValueError(f"got a {type(plain).__name__}; expected a model of the architectures {', '.join(CONFIGS)}")
    own = plain.config.to_dict()
    number = own.pop("num_classes")
    if own_fields := sorted(set(fields) & {*own, *config_class.attribute_map, "num_labels", "id2label", "label2id"}):
        raise ValueError(
            f"got {', '.join(own_fields)}, which the model determines; pass fields to create_model, labels as classes="
        )
    if classes is not None and len(classes) != number:
        raise ValueError(f"got {len(classes)} class names for a model with {number} classes; give one name per class")
    labels = {} if classes is None else {"id2label": dict(enumerate(classes))}
    config = config_class(**own, **fields, **labels, num_classes=number)  # pyright: ignore[reportCallIssue]
    with torch.device("meta"):
        outer = auto.from_config(config)
    outer.adopt(plain)
    return outer.train(plain.training)


def from_published(name: str, auto: Any = AutoModelForImageClassification, **fields: Any) -> RopePreTrainedModel:
    """Build a transformers model with published weights, from the hub or its cache, and ImageNet's class names.

    Args:
        name: A name that `ropevit.list_models(pretrained=True)` lists.
        auto: Class of the result: AutoModelForImageClassification, AutoModel or AutoBackbone.
        fields: Fields of the transformers config alone, such as out_indices=[3, 6, 9, 12].

    Raises:
        ValueError: If the class or a field is not allowed.
        WeightsError: If there are no published weights of that name.
    """
    return from_ropevit(create_model(name, pretrained=True), auto, classes=imagenet_classes(), **fields)


def image_processor(
    config: RopeConfig, size: int | None = None, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> CLIPImageProcessor:
    """Build the image processor of the paper's evaluation: resize the shorter side (bicubic), then center crop.

    >>> image_processor(model.config).save_pretrained("my_folder")

    Args:
        config: Config of the model.
        size: Side of the square crop in pixels; None takes the model's own size.
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Standard deviation of each channel.

    Raises:
        ValueError: If the model does not accept RGB images of that size.
    """
    own = config.to_ropevit()
    if size is None and own.img_size[0] != own.img_size[1]:
        raise ValueError(
            f"got a model for {own.img_size[0]} x {own.img_size[1]} pixels, which is not square; give its side as size="
        )
    if own.in_channels != 3:
        raise ValueError(
            f"got a model for {own.in_channels} channels; expected 3, as CLIPImageProcessor converts images to RGB"
        )
    side = own.img_size[0] if size is None else size
    check_size(side, side, own.multiple)
    return CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(mean),
        image_std=list(std),
    )
