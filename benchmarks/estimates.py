"""Parameters, MACs and memory of a training step of each detection and segmentation recipe, estimated from shapes.

    python benchmarks/estimates.py [RECIPE ...] > table.md

Prints the table of docs/dense.md.
"""

import sys

from ropevit.cli.estimate import gib, step_of_training
from ropevit.cli.train import find_task
from ropevit.tasks.detect import recipes as detect
from ropevit.tasks.estimate import estimate_step
from ropevit.tasks.segment import recipes as segment

HEAD = "| recipe | pixels | parameters (M) | MACs (G) | float32 (GiB) | bfloat16 (GiB) |"

#: Suffixes of recipes that are omitted: their steps are those of a shorter recipe, or of a test.
OMITTED = ("_36ep", "_50ep", "_smoke")


def row(name: str) -> str:
    """Return the table row of a recipe: memory of the smallest batch, and of each further image."""
    step = step_of_training(find_task(name).get("recipes")[name]())
    estimate = estimate_step(step)
    cells = [f"`{name}`", " x ".join(map(str, step.size))]
    cells += [f"{estimate.parameters / 1e6:.1f}", f"{estimate.macs / 1e9:.0f}"]
    few = estimate.counts[0]
    cells += [f"{few}: {gib(x[0])}, +{gib(estimate.per_image(kind))}" for kind, x in estimate.peaks.items()]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    names = sys.argv[1:] or [name for name in (*detect.RECIPES, *segment.RECIPES) if not name.endswith(OMITTED)]
    print(HEAD, "|---|---|---|---|---|---|", sep="\n", flush=True)
    for each in names:
        print(row(each), flush=True)
