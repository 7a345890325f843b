"""Weighted k-nearest-neighbor classifier of features."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

#: Number of test images whose similarities to all training images are computed at a time.
_CHUNK = 256


def knn_predict(
    train: Float[Tensor, "n C"],
    labels: Int[Tensor, "n"],
    test: Float[Tensor, "m C"],
    num_classes: int,
    neighbors: int = 20,
    temperature: float = 0.07,
) -> Int[Tensor, "m"]:
    """Predict classes by the training images with the highest cosine similarity.

    Each of the k nearest neighbors votes for its class with weight exp(similarity / temperature).

    Args:
        train: Features of the training images.
        labels: Their classes.
        test: Features of the test images.
        num_classes: Number of classes.
        neighbors: k; all training images if there are fewer.
        temperature: Lower values give more weight to the nearest.

    Raises:
        ValueError: If there are no training images, or k or the temperature is out of range.

    Source: Wu et al. 2018 (arXiv:1805.01978), section 3.4; k = 20 and temperature 0.07 as in DINO, Caron et al. 2021
    (arXiv:2104.14294), and DINOv2.
    """
    if not len(train) or neighbors < 1 or temperature <= 0:
        raise ValueError(
            f"got {len(train)} training images, neighbors={neighbors} and temperature={temperature}; expected at least "
            "1, 1 or more, and above 0"
        )
    gallery, found = F.normalize(train.float(), dim=1), []
    for part in test.float().split(_CHUNK):
        similarity, places = (F.normalize(part, dim=1) @ gallery.T).topk(min(neighbors, len(train)), dim=1)
        weights = ((similarity - similarity[:, :1]) / temperature).exp()  # relative to the nearest: no overflow
        votes = weights.new_zeros(len(part), num_classes).scatter_add_(1, labels[places], weights)
        found.append(votes.argmax(1))
    return torch.cat(found) if found else labels[:0]
