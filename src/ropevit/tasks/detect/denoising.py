"""Contrastive denoising: ground-truth boxes with noise as extra queries in training, which need no matching."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ropevit.device import to_device
from ropevit.tasks.detect.boxes import Matching, Target, box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, logit
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.decoder import Queries


@dataclass(frozen=True)
class DenoisingGroups:
    """Layout of the denoising queries: each group has a positive for every slot, then a negative for every slot."""

    num_groups: int
    """Number of groups; each holds every object of an image once as a positive and once as a negative."""
    max_targets: int
    """Maximum number of objects per image in the batch; images with fewer leave the last slots empty."""

    @property
    def queries(self) -> int:
        """Number of denoising queries per image, with empty slots."""
        return 2 * self.num_groups * self.max_targets

    def matching(self, counts: Sequence[int], device: torch.device) -> Matching:
        """Return the positive queries of images with so many objects, and the object of each."""
        pairs, first = [], 0
        for image, count in enumerate(counts):
            group = torch.arange(self.num_groups).repeat_interleave(count)
            slot = torch.arange(count).repeat(self.num_groups)
            pairs.append(torch.stack([torch.full_like(slot, image), group * 2 * self.max_targets + slot, first + slot]))
            first += count
        return Matching(*to_device(torch.cat(pairs, dim=1), device))

    def mask(self, matched: int, device: torch.device) -> Bool[Tensor, "Q Q"]:
        """Return the attention mask: denoising queries see their group and matching queries; those see only each other.

        Args:
            matched: Number of matching queries, which follow the denoising ones.
            device: Device of the mask.
        """
        group = torch.arange(self.queries + matched, device=device) // (2 * self.max_targets)
        group[self.queries :] = self.num_groups
        return (group[:, None] == group) | (group == self.num_groups)


def make_denoising_groups(targets: Sequence[Target], config: DinoConfig) -> DenoisingGroups | None:
    """Return the number of groups for a batch; None if it has no objects, or denoising is off."""
    max_targets = max(len(target.labels) for target in targets)
    if max_targets == 0 or config.denoising == 0:
        return None
    return DenoisingGroups(max(1, config.denoising // max_targets), max_targets)


def denoising_queries(
    targets: Sequence[Target], groups: DenoisingGroups, embedding: nn.Embedding, config: DinoConfig
) -> Queries:
    """Build denoising queries: labels and boxes with noise; an empty slot has content 0 and a box whose logits are 0.

    Args:
        targets: Objects of each image.
        groups: From `make_denoising_groups`.
        embedding: Content embedding of each class.
        config: Noise settings.

    Returns:
        Content embeddings and boxes, without a mask.

    Source: Zhang et al. 2022 (arXiv:2203.03605), 3.3.
    """
    labels, boxes, filled = (
        x.repeat(1, 2 * groups.num_groups, *[1] * (x.ndim - 2)) for x in pad_targets(targets, groups)
    )
    if config.label_noise > 0:
        flipped = torch.rand(labels.shape, device=labels.device) < config.label_noise / 2
        labels = torch.where(flipped, torch.randint_like(labels, config.classes), labels)
    negative = (torch.arange(groups.queries, device=boxes.device) // groups.max_targets % 2).bool()
    boxes = jitter_boxes(boxes, negative, config.box_noise)
    content = embedding(labels) * filled[..., None]
    return Queries(content, torch.where(filled[..., None], logit(boxes), 0.0).sigmoid())


def pad_targets(targets: Sequence[Target], groups: DenoisingGroups) -> tuple[Tensor, Tensor, Tensor]:
    """Pad the targets of all images to the same number of slots: labels (B, slots), boxes (B, slots, 4), and a mask."""
    count, device = (len(targets), groups.max_targets), targets[0].labels.device
    labels = torch.zeros(count, dtype=torch.int64, device=device)
    boxes = torch.zeros(*count, 4, device=device)
    filled = torch.zeros(count, dtype=torch.bool, device=device)
    for row, target in enumerate(targets):
        length = len(target.labels)
        labels[row, :length], boxes[row, :length], filled[row, :length] = target.labels, target.boxes, True
    return labels, boxes, filled


def jitter_boxes(boxes: Float[Tensor, "B q 4"], negative: Bool[Tensor, "q"], scale: float) -> Float[Tensor, "B q 4"]:
    """Shift each corner by up to `scale` half widths and heights; those of negatives by one to two times `scale`."""
    half = boxes[..., 2:].repeat(1, 1, 2) / 2
    sign = torch.randint_like(boxes, 2) * 2 - 1
    distance = torch.rand_like(boxes) + negative[:, None]
    return box_xyxy_to_cxcywh((box_cxcywh_to_xyxy(boxes) + sign * distance * half * scale).clamp(0, 1))
