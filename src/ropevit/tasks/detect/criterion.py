"""DINO losses: focal, L1 and generalized IoU for matched, encoder and denoising queries."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.extras import require
from ropevit.tasks.dense.set_prediction import mean_over_ranks
from ropevit.tasks.detect.boxes import Matching, Predictions, Target, box_cxcywh_to_xyxy
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.dino import Output
from ropevit.tasks.detect.matching import match

#: Module of the losses in transformers.
MODULE = "transformers.loss.loss_for_object_detection"


def dino_losses(
    output: Output, targets: Sequence[Target], config: DinoConfig, divisor: Float[Tensor, ""] | None = None
) -> dict[str, Float[Tensor, ""]]:
    """Compute the losses of a detector's output; their sum is minimized.

    All processes must call this together, as the divisor is a mean over them. All return the same keys.

    Args:
        output: Output of the detector for the batch, with the same targets.
        targets: Objects of each image.
        config: Weights of costs and losses.
        divisor: Divisor of sums over objects, where the batch is a micro-batch; None takes the mean number of objects
            over the processes.

    Returns:
        Weighted losses: loss_class, loss_bbox and loss_giou of the last layer; suffixed _0, _1, ... for earlier layers,
        _enc for the encoder's tokens, and _dn, _dn_0, _dn_1, ... for the denoising queries.

    Raises:
        ValueError: If an image has more objects than there are queries, or the predictions are not finite.

    Source: Zhang et al. 2022 (arXiv:2203.03605); the divisor: Carion et al. 2020 (arXiv:2005.12872), A.2.
    """
    targets = list(targets)
    device = output.encoder.logits.device
    if divisor is None:
        divisor = mean_over_ranks(sum(len(target.labels) for target in targets), device)
    layers = [(str(number), layer) for number, layer in enumerate(output.layers[:-1])]
    losses = {}
    for name, predictions in [("", output.layers[-1]), *layers, ("enc", output.encoder)]:
        matching = match(predictions, targets, config)
        losses |= _loss_keys(name, set_losses(predictions, targets, matching, divisor, config))
    groups, last = output.groups, len(output.layers) - 1
    for number in range(last + 1):
        name = "dn" if number == last else f"dn_{number}"
        if groups is None:
            losses |= _loss_keys(name, dict.fromkeys(("class", "bbox", "giou"), divisor.new_zeros(())))
            continue
        matching = [groups.matching(len(target.labels), device) for target in targets]
        parts = set_losses(output.denoising[number], targets, matching, divisor * groups.num_groups, config)
        losses |= _loss_keys(name, parts)
    return losses


def _loss_keys(layer: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the losses of a layer to `loss_<kind>_<layer>`; `loss_<kind>` for the last layer, whose name is empty."""
    return {"_".join(filter(None, ("loss", kind, layer))): value for kind, value in losses.items()}


def set_losses(
    predictions: Predictions,
    targets: list[Target],
    matching: list[Matching],
    divisor: Float[Tensor, ""],
    config: DinoConfig,
) -> dict[str, Float[Tensor, ""]]:
    """Compute the focal loss of all queries, and L1 and generalized IoU losses of the matched ones.

    Args:
        predictions: Predictions of one layer.
        targets: Objects of each image.
        matching: Matched queries and objects of each image.
        divisor: Divisor of the sums over queries.
        config: Loss weights.

    Source: Lin et al. 2017 (arXiv:1708.02002), Eq. 5; Rezatofighi et al. 2019 (arXiv:1902.09630), Algorithm 1.
    """
    focal, giou = (getattr(require(MODULE, "dense"), name) for name in ("sigmoid_focal_loss", "generalized_box_iou"))
    logits, boxes = predictions.logits.float(), predictions.boxes.float()
    images = torch.cat([torch.full_like(queries, image) for image, (queries, _) in enumerate(matching)])
    queries = torch.cat([queries for queries, _ in matching])
    labels = torch.cat([target.labels[objects] for target, (_, objects) in zip(targets, matching, strict=True)])
    wanted = torch.cat([target.boxes[objects] for target, (_, objects) in zip(targets, matching, strict=True)])
    truth = torch.zeros_like(logits)
    truth[images, queries, labels] = 1
    found = boxes[images, queries]
    overlap = giou(box_cxcywh_to_xyxy(found), box_cxcywh_to_xyxy(wanted)).diagonal()
    return {
        "class": config.loss_class
        * logits.shape[1]
        * focal(logits, truth, divisor, alpha=config.focal_alpha, gamma=config.focal_gamma),
        "bbox": config.loss_box * (found - wanted).abs().sum() / divisor,
        "giou": config.loss_giou * (1 - overlap).sum() / divisor,
    }
