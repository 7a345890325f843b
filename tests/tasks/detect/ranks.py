"""One of two processes that train a small detector together: `python ranks.py RANK FILE`, prints what it saw as JSON."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ropevit.tasks.detect.criterion import dino_losses, mean_boxes
from tasks.detect.small import objects, small_detector, small_maps

TARGETS = [objects(1, 2, 3), objects()]


def norms(denoising, ranks):
    """Give the gradient norms of these ranks' images, and the names of the losses."""
    torch.manual_seed(0)
    model, maps = small_detector(denoising=denoising), small_maps()
    maps, targets = [x[ranks] for x in maps], [TARGETS[rank] for rank in ranks]
    whole = DistributedDataParallel(model) if dist.is_initialized() else model
    losses = dino_losses(whole(maps, targets=targets), targets, model.config)
    sum(losses.values()).backward()
    return {name: weight.grad.norm().item() for name, weight in model.named_parameters()}, list(losses)


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank = int(sys.argv[1])
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
    cpu = torch.device("cpu")
    seen = {"three and one": mean_boxes((3, 1)[rank], cpu).item(), "none": mean_boxes(0, cpu).item()}
    seen["norms"], seen["names"] = norms(0, [rank])
    seen["noisy norms"], seen["noisy names"] = norms(6, [rank])
    print(json.dumps(seen))
    dist.destroy_process_group()
