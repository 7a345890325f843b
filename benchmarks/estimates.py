"""What a step of each recipe of detection and segmentation needs, estimated from shapes: no memory is taken.

    python benchmarks/estimates.py [RECIPE ...] > table.md

The table of docs/dense.md is this one's.
"""

import sys

from ropevit.cli.estimate import gib, step_of_training
from ropevit.cli.train import find_task
from ropevit.tasks.common.estimate import estimate_step
from ropevit.tasks.detect import recipes as detect
from ropevit.tasks.segment import recipes as segment

HEAD = "| recipe | pixels | parameters (M) | multiply-adds (G) | float32 (GiB) | bfloat16 (GiB) |"

#: Longer trainings take the steps of those that they are made of.
SAME = ("_36ep", "_50ep", "_smoke")


def row(name: str) -> str:
    """Estimate a recipe's step: the memory of the smallest, and of each image more."""
    found = step_of_training(find_task(name).get("recipes")[name]())
    estimate = estimate_step(found)
    cells = [f"`{name}`", " x ".join(map(str, found.size))]
    cells += [f"{estimate.parameters / 1e6:.1f}", f"{estimate.multiply_adds / 1e9:.0f}"]
    few = estimate.counts[0]
    cells += [f"{few}: {gib(x[0])}, +{gib(estimate.per_image(kind))}" for kind, x in estimate.peaks.items()]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    names = sys.argv[1:] or [name for name in (*detect.RECIPES, *segment.RECIPES) if not name.endswith(SAME)]
    print(HEAD, "|---|---|---|---|---|---|", sep="\n", flush=True)
    for each in names:
        print(row(each), flush=True)
