"""Batches from a source, read by several processes; what they hold does not depend on how many there are."""

import os
import random
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, get_all_start_methods, get_context, parent_process, resource_tracker
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from ropevit.data.annotation_faults import RefusedError
from ropevit.data.augment import Transform
from ropevit.data.decoding import UNREADABLE, reason
from ropevit.data.order import SampledIndex, TrainOrder
from ropevit.data.sources import ImageSource
from ropevit.machine import available_cores

#: What a reader makes.
BatchT = TypeVar("BatchT")
BatchT_co = TypeVar("BatchT_co", covariant=True)

#: So many unreadable files in a row are not bad luck, but a wrong folder or a disk that is gone.
MAX_CONSECUTIVE_BAD = 10

#: What Ctrl-C in a terminal (SIGINT) and torchrun (SIGTERM) send to all processes together. Workers leave them to the
#: main process, which still needs their images, and ends them.
GROUP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


class Sample(NamedTuple):
    """An image, its label, and the files that could not be read in its place."""

    image: UInt8[Tensor, "3 S S"]
    label: int
    bad: list[int]


class Batch(NamedTuple):
    """Images of one size with their labels."""

    images: UInt8[Tensor, "b 3 S S"]
    """Not normalised; pinned where there is a GPU."""
    labels: Int[Tensor, "b"]
    """int64."""
    bad: list[int]
    """Indices of files that could not be read; `source.describe` names them."""
    indices: Sequence[int] = ()
    """Indices of the images in the source, where they are read to measure on."""


def train_batches(
    source: ImageSource, transform: Transform, order: TrainOrder, first_step: int, last_step: int, workers: int
) -> Iterator[Batch]:
    """Read the batches of a training, or of a part of it; nothing is read for the steps before.

    A file that cannot be read is replaced by the next one in the source that can, and reported. Processes are started
    once: ask for all steps at once rather than epoch by epoch.

    Args:
        source: Training images.
        transform: From `train_transform`.
        order: Which images each step takes.
        first_step: First step, from 0.
        last_step: The step after the last.
        workers: Processes that read; 0 reads in this one.

    Returns:
        For each step, `order.micro_batches` batches, one after the other.

    Raises:
        ValueError: If ten files in a row cannot be read.
    """
    check_length(order.length, source)
    keys = (order.batch(step, share) for step in range(first_step, last_step) for share in range(order.micro_batches))
    return batches(TrainReader(source, transform), keys, workers)


def eval_batches(
    source: ImageSource, transform: Transform, batch_size: int, workers: int, world: int = 1, rank: int = 0
) -> Iterator[Batch]:
    """Read every image once, over all processes together, in the order of the source.

    Args:
        source: Images to measure on.
        transform: From `eval_transform`.
        batch_size: Images of a batch of this process; the last one may have fewer, and any has fewer by its bad files.
        workers: Processes that read; 0 reads in this one.
        world: Number of processes that measure.
        rank: Which of them this one is: it takes image `rank` and every `world`-th after it.

    Returns:
        Batches. One of which no file can be read has no images, (0, 3, 0, 0).

    Raises:
        ValueError: If the batch size, the rank or the number of workers is impossible.
    """
    if batch_size < 1 or not 0 <= rank < world:
        raise ValueError(
            f"got batch_size={batch_size}, rank {rank} of {world}; expected 1 or more, and 0 to {world - 1}"
        )
    mine = range(rank, len(source), world)
    keys = (mine[start : start + batch_size] for start in range(0, len(mine), batch_size))
    return batches(EvalReader(source, transform), keys, workers)


def check_length(length: int, source: ImageSource) -> None:
    """Refuse an order that was made for another source."""
    if length != len(source):
        raise ValueError(f"got an order of {length} images for {source.name}, which has {len(source)}; make a new one")


@runtime_checkable
class Readable(Protocol):
    """Images by number, each with what is known of it."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Image.Image, Any]:
        """Read one; raises one of `decoding.UNREADABLE` where that fails."""
        ...

    def describe(self, index: int) -> str:
        """Say which file it is."""
        ...


@runtime_checkable
class Reader(Protocol[BatchT_co]):
    """Reads batches; in the form in which DataLoader asks a data set for them."""

    def __getitems__(self, keys: Any, /) -> "BatchT_co | Failure":
        """Read a batch, or say why there is none."""
        ...


class SkippedIndex(int):
    """Number of an image that could not be read, and why."""

    why: str

    def __new__(cls, number: int, why: str = "") -> "SkippedIndex":
        """Join the two."""
        unread = super().__new__(cls, number)
        unread.why = why
        return unread


def describe_skipped(source: Readable, bad: Iterable[int]) -> list[str]:
    """Name images that could not be read, each with the reason where it is known."""
    lines = []
    for number in bad:
        name, why = source.describe(number), getattr(number, "why", "")
        lines.append(why if why.startswith(name) else ": ".join(filter(None, (name, why))))
    return lines


def read_next_readable(source: Readable, index: int) -> tuple[tuple[Image.Image, Any], list[int]]:
    """Read an image, or the next one that can be read.

    Returns:
        What was read, and the indices of what could not be read.

    Raises:
        TooManyBadError: If there is none within reach.
        RefusedError: If no training may go on with one.
    """
    bad: list[int] = []
    why = ""
    for ahead in range(MAX_CONSECUTIVE_BAD):
        place = (index + ahead) % len(source)
        try:
            return source.read(place), bad
        except RefusedError:
            raise
        except UNREADABLE as error:
            why = reason(error)
            bad.append(SkippedIndex(place, why))
    first, last = source.describe(bad[0]), source.describe(bad[-1])
    raise TooManyBadError(
        f"{MAX_CONSECUTIVE_BAD} images in a row cannot be read, {first} to {last} ({why}); "
        "check the disk, or the files with `ropevit data check`"
    )


@dataclass(frozen=True)
class TrainReader:
    """Reads a training batch; in the form in which DataLoader asks a data set for one."""

    source: ImageSource
    transform: Transform

    def __getitems__(self, draws: list[SampledIndex]) -> "Batch | Failure":
        """Read a batch, or say why there is none."""
        try:
            samples = [self.sample(draw) for draw in draws]
        except TooManyBadError as error:
            return Failure(str(error))
        return collate(samples, [index for sample in samples for index in sample.bad])

    def sample(self, draw: SampledIndex) -> Sample:
        """Read an image, or the next one that can be read, and vary it by the draw's own random numbers.

        Raises:
            TooManyBadError: If there is none within reach.
        """
        (image, label), bad = read_next_readable(self.source, draw.index)
        with seeded(draw.seed):
            return Sample(self.transform(image), label, bad)


@dataclass(frozen=True)
class EvalReader:
    """Reads a batch to measure on; in the form in which DataLoader asks a data set for one."""

    source: ImageSource
    transform: Transform

    def __getitems__(self, indices: Iterable[int]) -> Batch:
        """Read a batch without the images that cannot be read."""
        samples, bad, good = [], [], []
        for index in indices:
            try:
                image, label = self.source.read(index)
            except UNREADABLE as error:
                bad.append(SkippedIndex(index, reason(error)))
            else:
                samples.append(Sample(self.transform(image), label, []))
                good.append(index)
        return collate(samples, bad)._replace(indices=good)


class Failure(NamedTuple):
    """Why a batch could not be made; an error would come out of another process with its whole traceback."""

    message: str


class TooManyBadError(Exception):
    """Hardly any file can be read."""


def collate(samples: list[Sample], bad: list[int]) -> Batch:
    """Stack samples."""
    images = (
        torch.stack([sample.image for sample in samples]) if samples else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    )
    return Batch(images, torch.tensor([sample.label for sample in samples], dtype=torch.int64), bad)


def batches(reader: Reader[BatchT], keys: Iterable, workers: int) -> Iterator[BatchT]:
    """Let workers, no more than there are cores, read batches ahead of time, one for each of the keys.

    Raises:
        ValueError: As `train_batches`.
    """
    if workers < 0:
        raise ValueError(f"got workers={workers}; expected 0 or more")
    loader = DataLoader(
        reader,  # pyright: ignore[reportArgumentType] (it has all that a loader asks for)
        batch_sampler=keys,
        num_workers=min(workers, available_cores()),
        collate_fn=identity,  # pyright: ignore[reportArgumentType]
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context=start_method() if workers else None,
        worker_init_fn=init_worker,
        generator=torch.Generator(),  # or it would draw from the caller's
    )
    for batch in loader:
        if isinstance(batch, Failure):
            raise ValueError(batch.message)
        yield batch


def start_method() -> BaseContext:
    """Choose how processes start: not as a fork of this one, which hangs where it has threads (bars, logs, a GPU).

    They are forks of a server that has loaded the libraries once for all, where the system has forks. It is started
    with GROUP_SIGNALS blocked, and its forks inherit that until `init_worker` runs in them: the server ends with this
    process, and workers end with the server.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__, "torchvision.transforms", "timm.data.auto_augment"])
    resource_tracker.ensure_running()  # which the server would start, letting signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def identity(batch: BatchT) -> BatchT:
    """Hand on what a reader has made."""
    return batch


def init_worker(_: int) -> None:
    """Leave GROUP_SIGNALS to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
        drop_pending()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)


def drop_pending() -> None:
    """Forget GROUP_SIGNALS that came while they were blocked; end this process if the main one meant it alone."""
    main = parent_process()
    while hasattr(signal, "sigtimedwait") and (received := signal.sigtimedwait(GROUP_SIGNALS, 0)):
        if main and received.si_pid == main.pid:
            os._exit(0)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Set all random numbers that transforms draw from, and put them back as they were."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (timm draws from it)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would set those of GPUs, too
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
