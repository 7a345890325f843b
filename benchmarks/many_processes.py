"""Train with one and with several processes on a CPU, with DDP and FSDP, and compare the losses of every step.

    python benchmarks/many_processes.py

The global batch is always the same, so the losses must be, up to the order in which float32 numbers are added. The
last way changes the number of processes in the middle, as a cluster does that loses a machine.
"""

import argparse
import json
import socket
import tempfile
from pathlib import Path
from typing import Any

from small_training import finished, fork, small, train

from ropevit.tasks.training.metrics_log import read_metrics


def run(out: Path, processes: int, **options: Any) -> None:
    """Train with a number of processes, as torchrun starts them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    children = [
        fork(
            lambda: train(small(out, epochs=2, **options)),
            **(shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}),
        )
        for rank in range(processes)
    ]
    ended = [finished(child) for child in children]
    assert all(ended), f"{options} with {processes} processes failed"


def losses(out: Path) -> list[float]:
    """Read the loss of every step."""
    return [line["loss"] for line in read_metrics(out) if "loss" in line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--short", action="store_true", help="only the last variant")
    arguments = parser.parse_args()
    steps = arguments.steps
    differences = {}
    with tempfile.TemporaryDirectory() as folder:
        one = Path(folder) / "one"
        run(one, 1, max_steps=steps)
        ways: dict[str, list[tuple[int, dict[str, Any]]]] = {
            "two processes": [(2, {})],
            "one process, two parts": [(1, {"grad_accum_steps": 2})],
            "two processes, two parts each": [(2, {"grad_accum_steps": 2})],
            "two processes, weights shared out": [(2, {"fsdp": True})],
            "two processes, then one": [(2, {"max_steps": steps // 2}), (1, {})],
            "weights shared out, stopped and resumed": [
                (2, {"fsdp": True, "max_steps": steps // 2}),
                (2, {"fsdp": True}),
            ],
            "weights shared out, then one process": [(2, {"fsdp": True, "max_steps": steps // 2}), (1, {})],
        }
        chosen = list(ways.items())[-1 if arguments.short else 0 :]
        for number, (name, parts) in enumerate(chosen):
            out = Path(folder) / str(number)
            for processes, options in parts:
                run(out, processes, **{"max_steps": steps, **options})
            pairs = zip(losses(out), losses(one), strict=True)
            differences[name] = max(abs(a - b) / abs(b) for a, b in pairs)
    print(json.dumps({name: float(f"{value:.1e}") for name, value in differences.items()}, indent=2))


if __name__ == "__main__":
    main()
