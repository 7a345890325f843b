"""DINO losses: focal, L1 and generalized IoU for matched, encoder and denoising queries."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ropevit.extras import require
from ropevit.tasks.dense.set_prediction import mean_over_ranks
from ropevit.tasks.detect.boxes import Matching, Predictions, Target, box_cxcywh_to_xyxy, generalized_iou
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
    device = output.encoder.logits.device
    if divisor is None:
        divisor = mean_over_ranks(sum(len(target.labels) for target in targets), device)
    objects = Target(torch.cat([each.labels for each in targets]), torch.cat([each.boxes for each in targets]))
    last = len(output.layers) - 1
    predictions = [output.layers[-1], *output.layers[:-1], output.encoder]
    losses = {}
    for name, layer, matching in zip(
        ["", *map(str, range(last)), "enc"], predictions, match(predictions, targets, config), strict=True
    ):
        losses |= _loss_keys(name, set_losses(layer, objects, matching, divisor, config))
    noisy = [f"dn_{number}" for number in range(last)] + ["dn"]
    if output.groups is None:
        zeros: dict[str, Tensor] = dict.fromkeys(("class", "bbox", "giou"), divisor.new_zeros(()))
        return losses | {key: value for name in noisy for key, value in _loss_keys(name, zeros).items()}
    matching = output.groups.matching([len(each.labels) for each in targets], device)
    for name, layer in zip(noisy, output.denoising, strict=True):
        losses |= _loss_keys(name, set_losses(layer, objects, matching, divisor * output.groups.num_groups, config))
    return losses


def _loss_keys(layer: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the losses of a layer to `loss_<kind>_<layer>`; `loss_<kind>` for the last layer, whose name is empty."""
    return {"_".join(filter(None, ("loss", kind, layer))): value for kind, value in losses.items()}


def set_losses(
    predictions: Predictions,
    objects: Target,
    matching: Matching,
    divisor: Float[Tensor, ""],
    config: DinoConfig,
) -> dict[str, Float[Tensor, ""]]:
    """Compute the focal loss of all queries, and L1 and generalized IoU losses of the matched ones.

    Args:
        predictions: Predictions of one layer.
        objects: Objects of all images, one after the other.
        matching: Matched queries and objects.
        divisor: Divisor of the sums over queries.
        config: Loss weights.

    Source: Lin et al. 2017 (arXiv:1708.02002), Eq. 5; Rezatofighi et al. 2019 (arXiv:1902.09630), Algorithm 1.
    """
    focal = require(MODULE, "dense").sigmoid_focal_loss
    logits, boxes = predictions.logits.float(), predictions.boxes.float()
    truth = torch.zeros_like(logits)
    truth[matching.images, matching.queries, objects.labels[matching.objects]] = 1
    found, wanted = boxes[matching.images, matching.queries], objects.boxes[matching.objects]
    overlap = generalized_iou(box_cxcywh_to_xyxy(found), box_cxcywh_to_xyxy(wanted))
    return {
        "class": config.loss_class
        * logits.shape[1]
        * focal(logits, truth, divisor, alpha=config.focal_alpha, gamma=config.focal_gamma),
        "bbox": config.loss_box * (found - wanted).abs().sum() / divisor,
        "giou": config.loss_giou * (1 - overlap).sum() / divisor,
    }
