"""Two processes that train a small Mask2Former: with `python ranks.py DIRECTORY` each writes there what it saw."""

import json
import multiprocessing
import sys
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ropevit.tasks.distributed import Communicator
from ropevit.tasks.segment import criterion
from ropevit.tasks.segment.criterion import mask_losses
from ropevit.tasks.segment.mask2former import MODULE
from ropevit.tasks.segment.mean_iou import confusion, segmentation_scores
from tasks.segment.small import small_mask2former


def labels_of(rank):
    """Return the labels of a rank's image: three classes, or one."""
    labels = torch.full((1, 64, 64), 255)
    for number in range((3, 1)[rank]):
        labels[:, 20 * number : 20 * number + 20] = 7 * number
    return labels


def match_in_order(output, truth, _config):
    """Match the masks of each image with its first queries."""
    return [torch.cat([torch.arange(count) for count in truth.counts])] * len(output)


def step(ranks):
    """Return the gradient norms of the masks' losses of these ranks' images, and the losses by name."""
    torch.manual_seed(0)
    model = small_mask2former(class_weight=0.0)
    images = torch.randn(2, 3, 64, 64)[ranks]
    whole = DistributedDataParallel(model, find_unused_parameters=True) if dist.is_initialized() else model
    labels = torch.cat([labels_of(rank) for rank in ranks])
    found = whole(images)
    middle = torch.full((1, 64, 2), 0.5)
    middle[..., 0] = torch.linspace(0.1, 0.9, 64)
    criterion.choose_points = lambda masks, _config: middle.expand(len(masks), -1, -1)  # no chance: as many draw alike
    criterion.match_masks = match_in_order
    losses = mask_losses(found, labels, model.config)
    sum(losses.values()).backward()
    weights = {name: weight.grad.norm().item() for name, weight in model.named_parameters() if weight.grad is not None}
    return weights, {name: value.item() for name, value in losses.items()}


def train(rank, directory):
    """Train as one of two processes, and write what was seen to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
    seen = dict(zip(("norms", "losses"), step([rank]), strict=True))
    counts = confusion(torch.zeros(1, 64, 64, dtype=torch.int64), labels_of(rank), 150)
    seen["accuracy"] = segmentation_scores(Communicator().all_reduce_sum(counts)).pixel_accuracy
    Path(directory, f"{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    import_module(MODULE)  # once for both
    forks = multiprocessing.get_context("fork")
    children = [forks.Process(target=train, args=(rank, sys.argv[1])) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(max(abs(child.exitcode) for child in children))
