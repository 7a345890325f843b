"""Two processes that train a small detector: with `python ranks.py DIRECTORY` each writes there what it saw."""

import json
import multiprocessing
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ropevit.tasks.dense.set_prediction import mean_over_ranks
from ropevit.tasks.detect import criterion, layers
from ropevit.tasks.detect.criterion import dino_losses
from tasks.detect.small import objects, small_detector, small_maps

TARGETS = [objects(1, 2, 3), objects()]


def norms(denoising, ranks):
    """Return the gradient norms of these ranks' images, and the losses by name."""
    torch.manual_seed(0)
    model, maps = small_detector(denoising=denoising), small_maps()
    maps, targets = [x[ranks] for x in maps], [TARGETS[rank] for rank in ranks]
    whole = DistributedDataParallel(model) if dist.is_initialized() else model
    losses = dino_losses(whole(maps, targets=targets), targets, model.config)
    sum(losses.values()).backward()
    return {name: weight.grad.norm().item() for name, weight in model.named_parameters()}, {
        name: value.item() for name, value in losses.items()
    }


def train(rank, directory):
    """Train as one of two processes, and write what was seen to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
    cpu = torch.device("cpu")
    seen = {"three and one": mean_over_ranks((3, 1)[rank], cpu).item(), "none": mean_over_ranks(0, cpu).item()}
    seen["norms"], seen["losses"] = norms(0, [rank])
    seen["noisy norms"], seen["noisy losses"] = norms(6, [rank])
    Path(directory, f"{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    for module in (layers.MODULE, criterion.MODULE):
        import_module(module)  # once for both
    forks = multiprocessing.get_context("fork")
    children = [forks.Process(target=train, args=(rank, sys.argv[1])) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(max(abs(child.exitcode) for child in children))
