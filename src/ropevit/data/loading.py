"""DataLoader batches of training and evaluation images; their content does not depend on the number of workers."""

import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver, get_all_start_methods, get_context, parent_process, resource_tracker
from multiprocessing.context import BaseContext
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

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

#: Type of a reader's batches.
BatchT = TypeVar("BatchT")
BatchT_co = TypeVar("BatchT_co", covariant=True)

#: Consecutive unreadable files after which a training ends: a wrong folder, or a lost disk.
_MAX_CONSECUTIVE_UNREADABLE = 10

#: Signals that a terminal (SIGINT, Ctrl-C) or torchrun (SIGTERM) sends to the whole process group. Workers ignore them:
#: the main process still needs their images, and ends them itself.
_GROUP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


class Batch(NamedTuple):
    """Images of one size with their labels."""

    images: UInt8[Tensor, "b 3 S S"]
    """Not normalized; in pinned memory if the model is on a GPU."""
    labels: Int[Tensor, "b"]
    """int64."""
    unreadable: list[int]
    """Indices of skipped (unreadable) files; `source.describe` names them."""
    indices: Sequence[int] = ()
    """Indices of the images in the source; evaluation only."""


def train_batches(
    source: ImageSource, transform: Transform, order: TrainOrder, first_step: int, last_step: int, workers: int
) -> Iterator[Batch]:
    """Iterate over the batches of training steps; earlier steps are not read.

    An unreadable file is replaced by the next readable one, and reported. Workers are started once per call: request
    all steps at once rather than epoch by epoch.

    Args:
        source: Training images.
        transform: From `train_transform`.
        order: Images of each step.
        first_step: First step, from 0.
        last_step: Step after the last one.
        workers: Number of worker processes; 0 reads in this process.

    Returns:
        For each step, `order.micro_batches` batches, one after the other.

    Raises:
        ValueError: If ten files in a row cannot be read.
    """
    _check_length(order.length, source)
    reader = TrainReader(source, partial(_augment, transform=transform), _stack)
    return batches(reader, train_keys(order, first_step, last_step), workers)


def eval_batches(
    source: ImageSource, transform: Transform, batch_size: int, workers: int, world: int = 1, rank: int = 0
) -> Iterator[Batch]:
    """Iterate over all images once, divided over the processes, in the order of the source.

    Args:
        source: Evaluation images.
        transform: From `eval_transform`.
        batch_size: Images per batch and process; the last batch may have fewer, and skipped files shorten a batch.
        workers: Number of worker processes; 0 reads in this process.
        world: Number of processes that evaluate.
        rank: Rank of this process: it takes image `rank` and every `world`-th after it.

    Returns:
        Batches. A batch without readable files has images of shape (0, 3, 0, 0).

    Raises:
        ValueError: If the batch size, the rank or the number of workers is impossible.
    """
    if batch_size < 1 or not 0 <= rank < world:
        raise ValueError(
            f"got batch_size={batch_size}, rank {rank} of {world}; expected 1 or more, and 0 to {world - 1}"
        )
    keys = list(eval_keys(len(source), batch_size, world, rank))
    found = batches(EvalReader(source, partial(_augment, transform=transform), _stack), keys, workers)
    return (
        batch._replace(indices=[index for index in indices if index not in batch.unreadable])
        for indices, batch in zip(keys, found, strict=True)
    )


def _check_length(length: int, source: ImageSource) -> None:
    """Check that an order was made for a source of this length."""
    if length != len(source):
        raise ValueError(f"got an order of {length} images for {source.name}, which has {len(source)}; make a new one")


@runtime_checkable
class Readable(Protocol):
    """Images by index, each with its annotation."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> tuple[Image.Image, Any]:
        """Return an image and its annotation; raises one of `decoding.UNREADABLE` if it cannot be decoded."""
        ...

    def describe(self, index: int) -> str:
        """Return the name of the file, for messages."""
        ...


@runtime_checkable
class Reader(Protocol[BatchT_co]):
    """Reads batches, through the method that DataLoader's fetcher calls."""

    def __getitems__(self, keys: Any, /) -> "BatchT_co | Failure":
        """Read a batch, or return why that failed."""
        ...


class SkippedIndex(int):
    """Index of a skipped image, with the reason."""

    why: str

    def __new__(cls, number: int, why: str = "") -> "SkippedIndex":
        """Create an index with a reason."""
        index = super().__new__(cls, number)
        index.why = why
        return index


def describe_skipped(source: Readable, unreadable: Iterable[int]) -> list[str]:
    """Return the name of each skipped image, with the reason if it is known."""
    lines = []
    for number in unreadable:
        name, why = source.describe(number), getattr(number, "why", "")
        lines.append(why if why.startswith(name) else ": ".join(filter(None, (name, why))))
    return lines


def read_next_readable(source: Readable, index: int) -> tuple[tuple[Image.Image, Any], list[int]]:
    """Read an image, or the next readable one.

    Returns:
        The image with its annotation, and the indices of the skipped images.

    Raises:
        TooManyUnreadableError: If ten images in a row are unreadable.
        RefusedError: If an image has a fault that concerns the whole data set.
    """
    unreadable: list[int] = []
    why = ""
    for ahead in range(_MAX_CONSECUTIVE_UNREADABLE):
        candidate = (index + ahead) % len(source)
        try:
            return source.read(candidate), unreadable
        except RefusedError:
            raise
        except UNREADABLE as error:
            why = reason(error)
            unreadable.append(SkippedIndex(candidate, why))
    first, last = source.describe(unreadable[0]), source.describe(unreadable[-1])
    raise TooManyUnreadableError(
        f"{_MAX_CONSECUTIVE_UNREADABLE} images in a row cannot be read, {first} to {last} ({why}); "
        "check the disk, or the files with `ropevit data check`"
    )


@dataclass(frozen=True)
class TrainReader(Generic[BatchT]):
    """Reads training batches for DataLoader; an unreadable image is replaced by the next one."""

    source: Readable
    prepare: Callable[[Any, Any], Any]
    """Makes a sample of an image and its annotation, with the global random generators."""
    collate: Callable[[list, list[int]], BatchT]
    """Makes a batch of samples and the indices of skipped images."""

    def __getitems__(self, draws: Iterable[SampledIndex]) -> "BatchT | Failure":
        """Read a batch, or return why that failed."""
        samples, unreadable = [], []
        for draw in draws:
            try:
                found, skipped = read_next_readable(self.source, draw.index)
            except (TooManyUnreadableError, RefusedError) as error:
                return Failure(str(error))
            unreadable += skipped
            with seeded(draw.seed):
                samples.append(self.prepare(*found))
        return self.collate(samples, unreadable)


@dataclass(frozen=True)
class EvalReader(Generic[BatchT]):
    """Reads evaluation batches for DataLoader, skipping unreadable images; the fields are those of `TrainReader`."""

    source: Readable
    prepare: Callable[[Any, Any], Any]
    collate: Callable[[list, list[int]], BatchT]

    def __getitems__(self, indices: Iterable[int]) -> "BatchT | Failure":
        """Read a batch, or return why that failed."""
        samples, unreadable = [], []
        for index in indices:
            try:
                found = self.source.read(index)
            except RefusedError as error:
                return Failure(str(error))
            except UNREADABLE as error:
                unreadable.append(SkippedIndex(index, reason(error)))
            else:
                samples.append(self.prepare(*found))
        return self.collate(samples, unreadable)


def train_keys(order: TrainOrder, first_step: int, last_step: int) -> Iterator[list[SampledIndex]]:
    """Iterate over the draws of this process's micro-batches, from the first step to before the last."""
    return (order.batch(step, part) for step in range(first_step, last_step) for part in range(order.micro_batches))


def eval_keys(length: int, batch_size: int, world: int = 1, rank: int = 0) -> Iterator[Sequence[int]]:
    """Iterate over the indices of this process's batches; all processes together have each image once.

    Args:
        length: Number of images.
        batch_size: Images per batch and process; the last batch may have fewer.
        world: Number of processes.
        rank: Rank of this process: it takes image `rank` and every `world`-th after it.
    """
    mine = range(rank, length, world)
    return (mine[start : start + batch_size] for start in range(0, len(mine), batch_size))


class Failure(NamedTuple):
    """Reason why a batch could not be read; an exception would arrive from the worker with its whole traceback."""

    message: str


class TooManyUnreadableError(Exception):
    """Too many unreadable files in a row."""


def _augment(image: Image.Image, label: int, transform: Transform) -> tuple[Tensor, int]:
    """Transform an image and keep its label."""
    return transform(image), label


def _stack(samples: list[tuple[Tensor, int]], unreadable: list[int]) -> Batch:
    """Stack images and labels to a batch."""
    images = torch.stack([image for image, _ in samples]) if samples else torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    return Batch(images, torch.tensor([label for _, label in samples], dtype=torch.int64), unreadable)


def batches(reader: Reader[BatchT], keys: Iterable, workers: int) -> Iterator[BatchT]:
    """Iterate over one batch per key, read ahead by workers (at most one per core).

    Raises:
        ValueError: If `workers` is negative, or a batch cannot be read.
    """
    if workers < 0:
        raise ValueError(f"got workers={workers}; expected 0 or more")
    loader = DataLoader(
        reader,  # pyright: ignore[reportArgumentType] (it has the methods that DataLoader calls)
        batch_sampler=keys,
        num_workers=min(workers, available_cores()),
        collate_fn=already_collated,  # pyright: ignore[reportArgumentType]
        pin_memory=torch.cuda.is_initialized(),  # a model is on a GPU
        multiprocessing_context=start_method() if workers else None,
        worker_init_fn=_init_worker,
        generator=torch.Generator(),  # or DataLoader would draw from the global generator
    )
    for batch in loader:
        if isinstance(batch, Failure):
            raise ValueError(batch.message)
        yield batch


def start_method() -> BaseContext:
    """Return the start method of workers: forkserver, or spawn; forks of a process with threads (GPU, bars) can hang.

    The fork server loads the libraries once for all workers. It is started with `_GROUP_SIGNALS` blocked, and its forks
    inherit that until `_init_worker` runs in them. The server ends with this process, and workers end with the server.
    """
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__, "torchvision.transforms", "timm.data.auto_augment"])
    resource_tracker.ensure_running()  # or the server would start it and unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _GROUP_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def already_collated(batch: BatchT) -> BatchT:
    """Return a batch unchanged: readers collate already."""
    return batch


def _init_worker(_: int) -> None:
    """Initialize a worker: leave `_GROUP_SIGNALS` to the main process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
        _drop_pending()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _GROUP_SIGNALS)


def _drop_pending() -> None:
    """Discard `_GROUP_SIGNALS` received while blocked; exit if the main process sent one to this worker alone."""
    main = parent_process()
    while hasattr(signal, "sigtimedwait") and (received := signal.sigtimedwait(_GROUP_SIGNALS, 0)):
        if main and received.si_pid == main.pid:
            os._exit(0)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators that transforms use, and restore their state afterwards."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (timm draws from it)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed the GPUs
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
