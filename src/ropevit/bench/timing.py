"""Measures time and memory in rounds in which every candidate runs once, so that machine load affects all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

Call = Callable[[], Any]

#: Bytes written before each timed call on a GPU to flush its caches; larger than any of them.
_SCRATCH = 256 * 2**20

#: Seconds for which a candidate is timed in a round, and the most calls in that time.
ROUND_SECONDS, MAX_CALLS = 0.02, 20


class TimingStats(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


def timing_stats(values: list[float]) -> TimingStats:
    """Return median and quartiles of repeated measurements.

    Raises:
        ValueError: If there are none.
    """
    if not values:
        raise ValueError("got no measurements; expected at least one")
    if len(values) == 1:
        return TimingStats(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return TimingStats(middle, low, high)


def time_rounds(
    calls: Mapping[str, Call], rounds: int, device: torch.device, report: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Time each call once per round, starting each round with a different one.

    Two warm-up calls of each before the first round decide how many calls to make within a round.

    Args:
        calls: Functions to time, by name.
        rounds: Number of rounds.
        device: Device of the calls.
        report: Called after each round.

    Returns:
        Seconds per call, for each round.
    """
    clock = _time_on_gpu if device.type == "cuda" else _time_on_cpu
    names, repeats = list(calls), {}
    for name, call in calls.items():
        clock(call, 1)
        repeats[name] = min(MAX_CALLS, max(1, round(ROUND_SECONDS / max(clock(call, 1), 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        first = index % max(len(names), 1)
        for name in names[first:] + names[:first]:
            times[name].append(clock(calls[name], repeats[name]))
        report()
    return times


def _time_on_cpu(call: Call, repeats: int) -> float:
    """Return seconds per call on a CPU, in thread time if PyTorch uses one thread, since it varies least."""
    now = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    start = now()
    for _ in range(repeats):
        call()
    return (now() - start) / repeats


def _time_on_gpu(call: Call, repeats: int) -> float:
    """Return seconds per call on a GPU, by events after a cache flush; the flush hides the launch overhead."""
    scratch = torch.empty(_SCRATCH, dtype=torch.int8, device="cuda")
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for start, end in events:
        scratch.zero_()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return sum(start.elapsed_time(end) for start, end in events) / repeats / 1e3


def peak_bytes(call: Call) -> int:
    """Return the peak GPU memory of a call, minus the memory allocated before it."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def saved_bytes(forward: Call) -> int:
    """Return the bytes that a forward pass saves for the backward pass: storages of all saved tensors, each once."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result  # alive until here, so that no address is used twice
    return sum(sizes.values())
