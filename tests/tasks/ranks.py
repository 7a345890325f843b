"""Two processes whose batch norms saw different images: with `python ranks.py DIRECTORY` each writes its scores."""

import json
import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace

import safetensors.torch
import torch
import torch.distributed as dist
from torch import nn

from ropevit.tasks.distributed import Communicator
from ropevit.tasks.registry import Metric
from ropevit.tasks.training.config import OptimConfig, RunConfig
from ropevit.tasks.training.engine import TrainJob, TrainState, evaluate
from ropevit.tasks.training.events import silent
from ropevit.tasks.training.metrics_log import LogWindow
from ropevit.tasks.training.optim import Ema


class Statistics:
    """A task that measures the running mean."""

    steps_per_epoch, batch_size, metric = 1, 4, Metric("mean")

    def __init__(self):
        self.skipped, self.measured = [], []

    def batches(self, first, last):
        raise NotImplementedError

    def loss(self, model, batch, step):
        raise NotImplementedError

    def evaluate(self, model, report):  # noqa: ARG002
        self.measured.append(model.running_mean.item())
        return {"mean": self.measured[-1]}

    def save_weights(self, path, weights, facts):  # noqa: ARG002
        safetensors.torch.save_file(dict(weights), path)


def measure(rank, directory):
    """Measure as one of two processes, the second of which has seen ten times as much."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
    model, task = nn.BatchNorm1d(1), Statistics()
    average = Ema(model, 0.5)
    model(torch.full((4, 1), 10.0 ** (rank + 1)))
    average.update(model)
    optimizer = torch.optim.SGD(model.parameters())
    state = TrainState(
        model, model, SimpleNamespace(optimizer=optimizer), average, LogWindow(torch.device("cpu")), step=1
    )
    job = TrainJob(
        accelerator=SimpleNamespace(is_main_process=rank == 0),
        task=task,
        model=model,
        optim=OptimConfig(epochs=1, warmup_epochs=0.0),
        run=RunConfig(out=directory, device="cpu"),
        settings={},
        report=silent,
        communicator=Communicator(),
    )
    evaluate(state, job)
    found = {"measured": task.measured, "batches": model.num_batches_tracked.item()}
    Path(directory, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    forks = multiprocessing.get_context("fork")
    children = [forks.Process(target=measure, args=(rank, Path(sys.argv[1]))) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(max(abs(child.exitcode) for child in children))
