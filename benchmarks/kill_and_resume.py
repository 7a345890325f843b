"""Kill a training repeatedly, resume it each time, and compare it with an uninterrupted one.

    python benchmarks/kill_and_resume.py --kills 20

Kills (SIGKILL) come at random moments; every third one comes while a checkpoint is written. At the end, the
loss of every step and all weights must be bitwise equal.
"""

import argparse
import io
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from small_training import finished, fork, small, train

from ropevit.tasks.training import checkpoints
from ropevit.tasks.training.events import Event, Notice, StepDone, TrainStarted
from ropevit.tasks.training.metrics_log import read_metrics


def write_half(state: object, file: io.BufferedWriter) -> None:
    """Write the first half of a checkpoint, then kill the process."""
    whole = io.BytesIO()
    SAVE(state, whole)
    file.write(whole.getvalue()[: whole.tell() // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)


SAVE = torch.save


def attempt(out: Path, epochs: int, writing: bool, started: int) -> None:
    """Train; with `writing`, kill the process while it writes its second checkpoint."""
    count = iter(range(1000))

    def save(state: object, file: io.BufferedWriter) -> None:
        (write_half if writing and next(count) == 1 else SAVE)(state, file)

    def watch(event: Event) -> None:
        if isinstance(event, Notice):
            print(event.message, flush=True)
        if isinstance(event, TrainStarted | StepDone):
            os.write(started, b".")

    checkpoints.torch.save = save  # type: ignore[assignment]
    train(small(out, epochs), watch)


def kill_once(begin: Callable[[bool, int], None], writing: bool, most: float) -> bool:
    """Start a training and kill it; return whether it was killed before it ended."""
    reading, started = os.pipe()
    child = fork(lambda: begin(writing, started))
    os.close(started)
    os.read(reading, 1)  # it has started
    if not writing:
        time.sleep(random.uniform(0, most))
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="seed of the times of the kills")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        uninterrupted, killed = Path(folder) / "uninterrupted", Path(folder) / "killed"
        assert finished(fork(lambda: train(small(uninterrupted, arguments.epochs))))
        reached = []
        for number in range(arguments.kills):

            def begin(writing: bool, started: int) -> None:
                attempt(killed, arguments.epochs, writing, started)

            dead = kill_once(begin, writing=number % 3 == 2, most=0.4)
            reached.append(len(read_metrics(killed)))
            assert dead, f"the training ended before kill {number + 1}; give more --epochs"
        print(f"lines of the log after each of {len(reached)} kills: {reached}")
        assert finished(fork(lambda: train(small(killed, arguments.epochs))))
        compare(uninterrupted, killed)


def compare(uninterrupted: Path, killed: Path) -> None:
    """Check that two trainings are bitwise equal."""
    timing = ("images_per_second", "data_wait", "memory_gib")
    logs = [
        [{key: value for key, value in line.items() if key not in timing} for line in read_metrics(folder)]
        for folder in (uninterrupted, killed)
    ]
    assert logs[0] == logs[1], [pair for pair in zip(*logs, strict=False) if pair[0] != pair[1]][:3]
    for name in ("model.safetensors", "model_ema.safetensors", "best.safetensors"):
        weights = [safetensors.torch.load_file(folder / name) for folder in (uninterrupted, killed)]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0] | weights[1]), name
    steps = sum("loss" in line for line in logs[0])
    print(f"equal: losses of {steps} steps, {len(logs[0]) - steps} evaluations, three weights files")


if __name__ == "__main__":
    main()
