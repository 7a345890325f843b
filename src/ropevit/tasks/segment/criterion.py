"""Mask2Former losses: cross-entropy of classes, and cross-entropy and dice of matched masks."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn import functional as F

from ropevit.data.ade import IGNORED
from ropevit.extras import require
from ropevit.tasks.dense.set_prediction import linear_sum_assignment, mean_over_ranks
from ropevit.tasks.segment.base import STRIDES, semantic_to_masks
from ropevit.tasks.segment.config import Mask2FormerConfig
from ropevit.tasks.segment.mask2former import MODULE, Masks

#: Masks (n, H, W) and their classes (n,), of one image.
Truth = tuple[Tensor, Tensor]


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
        labels: Class of each pixel of the images, from 0, or IGNORED.
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
    truths = [semantic_to_masks(each.long()) for each in _pad_labels(labels, output)]
    _check_masks(truths, config)
    if divisor is None:
        divisor = mean_over_ranks(sum(len(classes) for _, classes in truths), labels.device)
    losses = {}
    for number, found in enumerate(output):
        suffix = "" if number == len(output) - 1 else f"_{number}"
        parts = layer_losses(found, truths, divisor, config)
        losses |= {f"loss_{name}{suffix}": value for name, value in parts.items()}
    return losses


def _pad_labels(labels: Shaped[Tensor, "B H W"], output: Sequence[Masks]) -> Shaped[Tensor, "B H2 W2"]:
    """Pad labels with IGNORED to the area that the masks cover, since the backbone pads images."""
    height, width = (side * STRIDES[0] for side in output[0].masks.shape[2:])
    return F.pad(labels, (0, width - labels.shape[2], 0, height - labels.shape[1]), value=IGNORED)


def _check_masks(truths: Sequence[Truth], config: Mask2FormerConfig) -> None:
    """Raise ValueError for more masks than queries, and for classes out of range."""
    for _, classes in truths:
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


def layer_losses(
    found: Masks, truths: Sequence[Truth], divisor: Float[Tensor, ""], config: Mask2FormerConfig
) -> dict[str, Float[Tensor, ""]]:
    """Compute the weighted losses of one layer: cross-entropy of all queries' classes, mask losses of matched ones."""
    parts: Any = require(MODULE, "dense")
    logits, masks = found.classes.float(), found.masks.float()
    if not (logits.isfinite().all() & masks.isfinite().all()):
        raise ValueError("got masks that are not finite: the training has diverged; lower the learning rate")
    matched = [match_masks(logits[i], masks[i], truth, config) for i, truth in enumerate(truths)]
    targets = torch.full(logits.shape[:2], config.classes, device=logits.device)
    for row, queries, (_, classes) in zip(targets, matched, truths, strict=True):
        row[queries] = classes
    weights = logits.new_ones(config.classes + 1)
    weights[-1] = config.nothing_weight
    predicted = torch.cat([masks[i, queries] for i, queries in enumerate(matched)])
    true = torch.cat([mask for mask, _ in truths])
    points = choose_points(predicted.detach(), config)
    predicted, true = _sample_points(predicted, points), _sample_points(true, points)
    return {
        "class": config.class_weight * F.cross_entropy(logits.transpose(1, 2), targets, weights),
        "mask": config.mask_weight * parts.sigmoid_cross_entropy_loss(predicted, true, divisor),
        "dice": config.dice_weight * parts.dice_loss(predicted, true, divisor),
    }


@torch.no_grad()
def match_masks(
    logits: Float[Tensor, "Q K1"], masks: Float[Tensor, "Q h w"], truth: Truth, config: Mask2FormerConfig
) -> Int[Tensor, "n"]:
    """Match each true mask of an image with a query, minimizing the total cost (Hungarian matching)."""
    parts: Any = require(MODULE, "dense")
    true, classes = truth
    points = torch.rand(1, config.points, 2, device=masks.device)  # the same for all
    predicted = _sample_points(masks, points.expand(len(masks), -1, -1))
    true = _sample_points(true, points.expand(len(true), -1, -1))
    costs = (
        config.class_weight * -logits.softmax(-1)[:, classes]
        + config.mask_weight * parts.pair_wise_sigmoid_cross_entropy_loss(predicted, true)
        + config.dice_weight * parts.pair_wise_dice_loss(predicted, true)
    )
    return torch.from_numpy(linear_sum_assignment(costs.T.cpu().numpy())).to(masks.device)


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
