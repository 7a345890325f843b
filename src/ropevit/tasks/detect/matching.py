"""Hungarian matching of queries with ground-truth objects."""

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.extras import require
from ropevit.tasks.dense.set_prediction import linear_sum_assignment
from ropevit.tasks.detect.boxes import Matching, Predictions, Target, box_cxcywh_to_xyxy
from ropevit.tasks.detect.config import DinoConfig


@torch.no_grad()
def match(predictions: Predictions, targets: list[Target], config: DinoConfig) -> list[Matching]:
    """Match the objects of each image with queries, minimizing the total cost.

    Args:
        predictions: Predictions of one layer.
        targets: Objects of each image.
        config: Weights of the costs.

    Returns:
        For each image, indices of the matched queries and of their objects.

    Raises:
        ValueError: If an image has more objects than there are queries, or the predictions are not finite.

    Source: Carion et al. 2020 (arXiv:2005.12872), Eq. 1; focal cost: Zhu et al. 2020 (arXiv:2010.04159), A.4.
    """
    most = max(len(target.labels) for target in targets)
    if most > predictions.logits.shape[1]:
        raise ValueError(f"got {most} objects in an image with {predictions.logits.shape[1]} queries; use more queries")
    if not (predictions.logits.isfinite().all() & predictions.boxes.isfinite().all()):
        raise ValueError("got predictions that are not finite, as the training has diverged; use a lower learning rate")
    costs = [
        cost_matrix(logits, boxes, target, config).cpu().numpy()
        for logits, boxes, target in zip(predictions.logits, predictions.boxes, targets, strict=True)
    ]
    device = predictions.logits.device
    return [
        (torch.from_numpy(linear_sum_assignment(cost.T)).to(device), torch.arange(cost.shape[1], device=device))
        for cost in costs
    ]


def cost_matrix(
    logits: Float[Tensor, "Q K"], boxes: Float[Tensor, "Q 4"], target: Target, config: DinoConfig
) -> Float[Tensor, "Q n"]:
    """Return the matching cost of each query with each object."""
    probability = logits.float().sigmoid()[:, target.labels]
    boxes, alpha, gamma = boxes.float(), config.focal_alpha, config.focal_gamma
    positive = alpha * (1 - probability) ** gamma * -(probability + 1e-8).log()
    negative = (1 - alpha) * probability**gamma * -(1 - probability + 1e-8).log()
    giou = require("transformers.loss.loss_for_object_detection", "dense").generalized_box_iou
    return (
        config.match_class * (positive - negative)
        + config.match_box * (boxes[:, None] - target.boxes).abs().sum(-1)
        - config.match_giou * giou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(target.boxes))
    )
