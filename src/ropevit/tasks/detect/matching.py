"""Hungarian matching of queries with ground-truth objects."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.device import to_device
from ropevit.tasks.dense.set_prediction import linear_sum_assignment
from ropevit.tasks.detect.boxes import Matching, Predictions, Target, box_cxcywh_to_xyxy, generalized_iou
from ropevit.tasks.detect.config import DinoConfig


@torch.no_grad()
def match(layers: Sequence[Predictions], targets: Sequence[Target], config: DinoConfig) -> list[Matching]:
    """Match the objects of each image with queries, minimizing the total cost, in each layer.

    The costs of all layers and images are copied from the device at once, and the assignments back: it waits once.

    Args:
        layers: Predictions of each layer, with as many queries in each.
        targets: Objects of each image.
        config: Weights of the costs.

    Returns:
        The matching of each layer; its pairs are in the order of the objects.

    Raises:
        ValueError: If an image has more objects than there are queries, or the predictions are not finite.

    Source: Carion et al. 2020 (arXiv:2005.12872), Eq. 1; focal cost: Zhu et al. 2020 (arXiv:2010.04159), A.4.
    """
    counts = [len(target.labels) for target in targets]
    logits = torch.stack([layer.logits.float() for layer in layers])
    boxes = torch.stack([layer.boxes.float() for layer in layers])
    if max(counts) > logits.shape[2]:
        raise ValueError(f"got {max(counts)} objects in an image with {logits.shape[2]} queries; use more queries")
    costs = [cost_matrix(logits[:, i], boxes[:, i], target, config) for i, target in enumerate(targets)]
    finite = logits.isfinite().all() & boxes.isfinite().all()
    found = torch.cat([finite.float()[None], *map(torch.flatten, costs)]).cpu().numpy()  # the one wait for the device
    if not found[0]:
        raise ValueError("got predictions that are not finite, as the training has diverged; use a lower learning rate")
    parts = np.split(found[1:], np.cumsum([cost.numel() for cost in costs])[:-1])
    matrices = [part.reshape(cost.shape) for part, cost in zip(parts, costs, strict=True)]
    queries = [np.concatenate([linear_sum_assignment(each[n].T) for each in matrices]) for n in range(len(layers))]
    rows = np.stack([np.repeat(np.arange(len(counts)), counts), np.arange(sum(counts)), *queries])
    images, objects, *queries = to_device(torch.from_numpy(rows), logits.device)
    return [Matching(images, each, objects) for each in queries]


def cost_matrix(
    logits: Float[Tensor, "*L Q K"], boxes: Float[Tensor, "*L Q 4"], target: Target, config: DinoConfig
) -> Float[Tensor, "*L Q n"]:
    """Return the matching cost of each query with each object."""
    probability = logits.float().sigmoid()[..., target.labels]
    boxes, alpha, gamma = boxes.float(), config.focal_alpha, config.focal_gamma
    positive = alpha * (1 - probability) ** gamma * -(probability + 1e-8).log()
    negative = (1 - alpha) * probability**gamma * -(1 - probability + 1e-8).log()
    overlap = generalized_iou(box_cxcywh_to_xyxy(boxes)[..., None, :], box_cxcywh_to_xyxy(target.boxes))
    return (
        config.match_class * (positive - negative)
        + config.match_box * (boxes[..., None, :] - target.boxes).abs().sum(-1)
        - config.match_giou * overlap
    )
