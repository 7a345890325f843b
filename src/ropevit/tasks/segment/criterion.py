"""Mask2Former losses: cross-entropy of classes, and cross-entropy and dice of matched masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from ropevit.data.ade import IGNORED
from ropevit.device import to_device
from ropevit.extras import require
from ropevit.tasks.dense.set_prediction import linear_sum_assignment, mean_over_ranks
from ropevit.tasks.segment.base import STRIDES, present_classes
from ropevit.tasks.segment.config import Mask2FormerConfig
from ropevit.tasks.segment.mask2former import MODULE, Masks


@dataclass(frozen=True)
class Truth:
    """True masks of a batch, those of an image together: one for each of its classes."""

    masks: Float[Tensor, "m H W"]
    """1 in the mask, 0 outside."""
    images: Int[Tensor, "m"]
    """Image of each mask."""
    classes: Int[Tensor, "m"]
    """Class of each mask."""
    counts: tuple[int, ...]
    """Masks of each image."""


def mask_losses(
    output: Sequence[Masks],
    labels: Shaped[Tensor, "B H W"],
    config: Mask2FormerConfig,
    divisor: Float[Tensor, ""] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Return the losses of a Mask2Former; the training minimizes their sum.

    Each class of an image is one mask. With several processes all must call it, as they agree on a divisor.

    Args:
        output: Predictions of the model, by layer.
        labels: Class of each pixel, from 0, or IGNORED. Labels on the CPU are copied to the device of the output; with
            labels on a GPU, listing the classes of each image waits for it.
        config: Weights of costs and losses.
        divisor: Normalizer of the mask losses if the batch is a micro-batch (see `step_divisor`); None takes the number
            of masks, averaged over the processes.

    Returns:
        Weighted losses: loss_class, loss_mask and loss_dice of the last layer; those of earlier layers end in _0, _1...

    Raises:
        ValueError: If an image has more classes than the model has queries, a class is out of range, or the output is
            not finite.

    Source: Cheng et al. 2021 (arXiv:2112.01527), 3.3 and 4.1; the divisor: Carion et al. 2020 (arXiv:2005.12872), A.2.
    """
    device = output[0].masks.device
    classes = [present_classes(each) for each in labels]
    _check_classes(classes, config)
    truth = make_truth(_pad_labels(to_device(labels, device), output), classes)
    if divisor is None:
        divisor = mean_over_ranks(sum(truth.counts), device)
    losses = {}
    for number, (found, queries) in enumerate(zip(output, match_masks(output, truth, config), strict=True)):
        suffix = "" if number == len(output) - 1 else f"_{number}"
        parts = layer_losses(found, truth, queries, divisor, config)
        losses |= {f"loss_{name}{suffix}": value for name, value in parts.items()}
    return losses


def _pad_labels(labels: Shaped[Tensor, "B H W"], output: Sequence[Masks]) -> Shaped[Tensor, "B H2 W2"]:
    """Pad labels with IGNORED to the area that the masks cover, since the backbone pads images."""
    height, width = (side * STRIDES[0] for side in output[0].masks.shape[2:])
    return F.pad(labels, (0, width - labels.shape[2], 0, height - labels.shape[1]), value=IGNORED)


def _check_classes(present: Sequence[Int[Tensor, "_"]], config: Mask2FormerConfig) -> None:
    """Raise ValueError for more classes in an image than queries, and for classes out of range."""
    for classes in present:
        if len(classes) > config.queries:
            raise ValueError(
                f"got {len(classes)} classes in an image with queries={config.queries}; take more queries, at least "
                "one per class"
            )
        if len(classes) and (classes[0] < 0 or classes[-1] >= config.classes):
            raise ValueError(
                f"got labels from {int(classes[0])} to {int(classes[-1])}; expected 0 to {config.classes - 1}: check "
                "the annotations and the number of classes"
            )


def make_truth(labels: Shaped[Tensor, "B H W"], present: Sequence[Int[Tensor, "_"]]) -> Truth:
    """Convert labels to one mask per class of each image; ignored pixels are in no mask.

    Args:
        labels: Class of each pixel, on the device.
        present: Classes of each image, from `present_classes`.
    """
    counts = tuple(map(len, present))
    images = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    images, classes = to_device(torch.stack([images, torch.cat([each.cpu() for each in present])]), labels.device)
    masks = labels[images] == classes.to(labels.dtype)[:, None, None]
    return Truth(masks.float(), images, classes, counts)


def layer_losses(
    found: Masks, truth: Truth, queries: Int[Tensor, "m"], divisor: Float[Tensor, ""], config: Mask2FormerConfig
) -> dict[str, Float[Tensor, ""]]:
    """Compute the weighted losses of one layer: cross-entropy of all queries' classes, mask losses of matched ones.

    Args:
        found: Predictions of the layer.
        truth: True masks.
        queries: Query matched with each true mask.
        divisor: Divisor of the mask losses.
        config: Weights of the losses.
    """
    parts: Any = require(MODULE, "dense")
    logits = found.classes.float()
    targets = torch.full(logits.shape[:2], config.classes, device=logits.device)
    targets[truth.images, queries] = truth.classes
    weights = logits.new_ones(config.classes + 1)
    weights[-1] = config.nothing_weight
    predicted = found.masks[truth.images, queries].float()
    points = choose_points(predicted.detach(), config)
    predicted, true = _sample_points(predicted, points), _sample_points(truth.masks, points)
    return {
        "class": config.class_weight * F.cross_entropy(logits.transpose(1, 2), targets, weights),
        "mask": config.mask_weight * parts.sigmoid_cross_entropy_loss(predicted, true, divisor),
        "dice": config.dice_weight * parts.dice_loss(predicted, true, divisor),
    }


@torch.no_grad()
def match_masks(output: Sequence[Masks], truth: Truth, config: Mask2FormerConfig) -> list[Int[Tensor, "m"]]:
    """Match each true mask with a query of its image, minimizing the total cost (Hungarian matching), in each layer.

    The costs of all layers and images are copied from the device at once, and the assignments back: it waits once.

    Returns:
        For each layer, the query of each true mask.

    Raises:
        ValueError: If the output is not finite.
    """
    costs, end = [], 0
    for image, count in enumerate(truth.counts):
        start, end = end, end + count
        costs += _image_costs(output, image, truth.masks[start:end], truth.classes[start:end], config)
    finite = torch.stack([part.isfinite().all() for layer in output for part in layer]).all()
    numbers = torch.cat([finite.float()[None], *map(torch.flatten, costs)]).cpu().numpy()  # the one wait
    if not numbers[0]:
        raise ValueError("got masks that are not finite: the training has diverged; lower the learning rate")
    ends = np.cumsum([cost.numel() for cost in costs])
    pairs = zip(np.split(numbers[1:], ends[:-1]), costs, strict=True)
    chosen = [linear_sum_assignment(part.reshape(cost.shape).T) for part, cost in pairs]
    layers = [np.concatenate(chosen[number :: len(output)]) for number in range(len(output))]
    return list(to_device(torch.from_numpy(np.stack(layers)), output[0].masks.device))


def _image_costs(
    output: Sequence[Masks], image: int, true: Tensor, classes: Tensor, config: Mask2FormerConfig
) -> list[Float[Tensor, "Q n"]]:
    """Return the costs of matching an image's masks in each layer, at points of the layer that all masks share."""
    parts: Any = require(MODULE, "dense")
    points = torch.rand(len(output), config.points, 2, device=true.device)
    costs = []
    for layer, places in zip(output, points, strict=True):
        predicted = _sample_all(layer.masks[image].float(), places)
        wanted = _sample_all(true, places)
        costs.append(
            config.class_weight * -layer.classes[image].float().softmax(-1)[:, classes]
            + config.mask_weight * parts.pair_wise_sigmoid_cross_entropy_loss(predicted, wanted)
            + config.dice_weight * parts.pair_wise_dice_loss(predicted, wanted)
        )
    return costs


@torch.no_grad()
def choose_points(masks: Float[Tensor, "n h w"], config: Mask2FormerConfig) -> Float[Tensor, "n points 2"]:
    """Sample the points at which the mask losses are computed: mostly the most uncertain ones, the rest uniformly.

    Returns:
        x and y of each point, from 0 to 1.

    Source: Kirillov et al. 2019 (arXiv:1912.08193), 3.1.
    """
    drawn = torch.rand(len(masks), int(config.points * config.oversample), 2, device=masks.device)
    uncertain = int(config.points * config.uncertain_share)
    closest = _sample_points(masks, drawn).abs().topk(uncertain, dim=1, largest=False).indices
    anywhere = torch.rand(len(masks), config.points - uncertain, 2, device=masks.device)
    return torch.cat([drawn.take_along_dim(closest[..., None], 1), anywhere], dim=1)


def _sample_points(masks: Float[Tensor, "n h w"], points: Float[Tensor, "n p 2"]) -> Float[Tensor, "n p"]:
    """Sample masks at points bilinearly, with zeros outside."""
    parts: Any = require(MODULE, "dense")
    return parts.sample_point(masks[:, None], points, align_corners=False)[:, 0]


def _sample_all(masks: Float[Tensor, "n h w"], points: Float[Tensor, "p 2"]) -> Float[Tensor, "n p"]:
    """Sample all masks at the same points."""
    return _sample_points(masks, points.expand(len(masks), -1, -1))
