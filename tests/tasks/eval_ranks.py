"""Two processes that measure together: `python eval_ranks.py CHECKPOINT DATA OUT PORT`, and four more for a second."""

import multiprocessing
import os
import sys
from importlib import import_module
from pathlib import Path

import torch

from ropevit.tasks.detect.evaluate import DetectorOptions
from ropevit.tasks.evaluate import evaluate
from ropevit.tasks.evaluation.config import EvalConfig


def measure(rank, jobs):
    """Measure as one of two processes."""
    torch.set_num_threads(1)
    for checkpoint, data, out, port in jobs:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
        places = {"data": data, "out": Path(out), "sizes": (64,)}
        options = DetectorOptions(save_detections="detector" in checkpoint)
        evaluate(EvalConfig(checkpoint=checkpoint, workers=0, device="cpu", options=options, **places))


if __name__ == "__main__":
    for module in ("transformers.models.mask2former.modeling_mask2former", "faster_coco_eval", "accelerate"):
        import_module(module)  # once for both
    forks = multiprocessing.get_context("fork")
    jobs = [sys.argv[start : start + 4] for start in range(1, len(sys.argv), 4)]
    children = [forks.Process(target=measure, args=(rank, jobs)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    sys.exit(max(abs(child.exitcode) for child in children))
