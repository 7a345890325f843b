"""Throughput of reading and augmenting images: the upper limit for a training."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from ropevit.data.augment import Transform
from ropevit.data.decoding import UNREADABLE
from ropevit.data.loading import seeded, train_batches
from ropevit.data.order import TrainOrder
from ropevit.data.sources import ImageSource

#: Images per batch; few, so that the first batch comes soon.
BATCH = 16
Progress = Callable[[float], None]


@dataclass(frozen=True)
class ReadingSpeed:
    """Result of a measurement."""

    read_seconds: float
    """Seconds to read and decode an image, in one process."""
    augment_seconds: float
    """Seconds to augment it."""
    workers: int
    """Number of DataLoader workers."""
    images_per_second: float
    """Throughput with these workers."""

    @property
    def per_core(self) -> float:
        """Images per second that one core reads and augments."""
        return 1 / (self.read_seconds + self.augment_seconds)


def measure_speed(source: ImageSource, transform: Transform, workers: int, seconds: float) -> ReadingSpeed:
    """Measure the throughput of training images, first in this process, then with workers.

    Args:
        source: Training images, read in random order as in training.
        transform: From `train_transform`.
        workers: Number of worker processes; 0 times this process alone.
        seconds: Duration of each of the two measurements.

    Raises:
        ValueError: If hardly any image can be read.
    """
    order = TrainOrder(len(source), min(BATCH, len(source)), seed=0)
    read, augment = _measure_single_core(source, transform, order, seconds)
    together = _measure_workers(source, transform, order, workers, seconds) if workers else 1 / (read + augment)
    return ReadingSpeed(read, augment, workers, together)


def _measure_single_core(
    source: ImageSource, transform: Transform, order: TrainOrder, seconds: float
) -> tuple[float, float]:
    """Time reading and augmentation separately, without the first image, for which libraries are loaded."""
    read = augment = 0.0
    count, start, step = -1, time.perf_counter(), 0
    while count < 1 or time.perf_counter() - start < seconds:
        for draw in order.batch(step):
            begin = time.perf_counter()
            try:
                image, _ = source.read(draw.index)
            except UNREADABLE:
                continue
            middle = time.perf_counter()
            with seeded(draw.seed):
                transform(image)
            count += 1
            if count > 0:
                read, augment = read + middle - begin, augment + time.perf_counter() - middle
        step += 1
        if count < 1 and step > order.steps_per_epoch:
            raise ValueError(f"hardly any image of {source.name} can be read; see `ropevit data check`")
    return read / count, augment / count


def _measure_workers(
    source: ImageSource, transform: Transform, order: TrainOrder, workers: int, seconds: float
) -> float:
    """Measure images per second once all workers are busy and their prefetched batches are used up."""
    begun, images = None, 0
    for number, batch in enumerate(train_batches(source, transform, order, 0, 10**9, workers)):
        now = time.perf_counter()
        if begun is not None:
            images += len(batch.labels)
            if now - begun >= seconds:
                return images / (now - begun)
        elif number >= 2 * workers:
            begun = now
    raise AssertionError("a training of a billion steps has no end")
