"""Top-1 and top-5 accuracy: correct predictions counted class by class, over all processes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ropevit.data.loading import Batch
from ropevit.device import delay_by_one, start_copy
from ropevit.tasks.distributed import Communicator

#: Number of predictions of which one must be correct for the second score.
_TOPK = 5


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Numbers of images and correct predictions, by class."""

    images: Int[Tensor, "K"]
    """Images."""
    top1: Int[Tensor, "K"]
    """Images whose best prediction is correct."""
    top5: Int[Tensor, "K"]
    """Images for which one of the five best predictions is correct."""

    def scores(self) -> dict[str, float]:
        """Return top-1 and top-5 accuracy in percent; with fewer than five classes, top-5 is always 100 and omitted.

        Raises:
            ValueError: If no image could be read.
        """
        total = int(self.images.sum())
        if total == 0:
            raise ValueError("no test image could be read, so there is nothing to evaluate; see `ropevit data check`")
        scores = {"top1": round(100 * int(self.top1.sum()) / total, 4)}
        if len(self.images) >= _TOPK:
            scores["top5"] = round(100 * int(self.top5.sum()) / total, 4)
        return scores


#: Returns which of each image's best predictions (b, k) are correct.
IsCorrect = Callable[[Tensor, Batch], Tensor]


def by_label(best: Int[Tensor, "b k"], batch: Batch) -> Bool[Tensor, "b k"]:
    """Return which predictions equal the image's label."""
    return best == batch.labels[:, None]


@torch.no_grad()
def tally(
    logits_of: Callable[[Tensor], Tensor],
    batches: Iterable[Batch],
    num_classes: int,
    communicator: Communicator,
    watch: Callable[[int], None],
    *,
    is_correct: IsCorrect = by_label,
    record: Callable[[Batch, Tensor], None] | None = None,
    blank: Tensor | None = None,
) -> Tally:
    """Count correct predictions over all processes.

    Processes may have different numbers of readable batches, but with FSDP every process must take part in every
    forward pass; see `blank`.

    Args:
        logits_of: Maps uint8 images (b, 3, S, S) to logits (b, K).
        batches: This process's batches.
        num_classes: Number of classes, K.
        communicator: Collective communication of the processes.
        watch: Called with the number of images that this process has evaluated.
        is_correct: Returns which predictions are correct.
        record: Called with each batch and its logits on the CPU.
        blank: Input (1, 3, S, S) of a process that has no batch left; None skips its forward pass.
    """
    counts = torch.zeros(3, num_classes, dtype=torch.int64)
    done = 0
    for batch, wait in delay_by_one(_start(logits_of, iter(batches), communicator, blank)):
        logits = wait()
        if record is not None:
            record(batch, logits)
        best = logits.topk(min(_TOPK, logits.shape[1])).indices
        correct = is_correct(best, batch)
        for row, counted in enumerate((torch.ones_like(batch.labels), correct[:, 0], correct.any(1))):
            counts[row].index_add_(0, batch.labels, counted.long())
        done += len(batch.labels)
        watch(done)
    images, top1, top5 = communicator.all_reduce_sum(counts).long()
    return Tally(images=images, top1=top1, top5=top5)


def _start(
    logits_of: Callable[[Tensor], Tensor], batches: Iterator[Batch], communicator: Communicator, blank: Tensor | None
) -> Iterator[tuple[Batch, Callable[[], Tensor]]]:
    """Start to compute the logits of each readable batch, and yield it with a function that waits for them."""
    while communicator.all_reduce_max((batch := next(batches, None)) is not None):
        if batch is not None and len(batch.labels):
            yield batch, start_copy(logits_of(batch.images).float())
        elif blank is not None:
            logits_of(blank)
