"""What extrapolates? Families of frequencies and rules for larger grids, from 1 to 4 times the training size.

    python benchmarks/beyond.py           # train and measure what is missing: three seeds, hours on two cores
    python benchmarks/beyond.py --show    # print means and spreads, and draw the figures of docs/scaling.md again

Runs two studies on the untouched test images, of which it keeps the results:

    ropevit study --panels field --test-sizes 32 64 96 128 ...
    ropevit study --panels zoom --test-sizes 28 56 84 112 ...

`pooled.py` prints the tables of docs/scaling.md: what differs from what, with intervals.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ropevit.drawing import figure_bytes
from ropevit.study.figure import draw_curves
from ropevit.study.results import panel_results

RESULTS = Path(__file__).parent / "results"
COMMON = ["--embeddings", "rope_axial", "rope_mixed", "--families", "all", "--seeds", "3", "--resume"]
#: panel -> test sizes and rules.
PANELS = {
    "field": (("32", "64", "96", "128"), ("parts+log", "parts(slow=0.5,fast=1)+log", "pi")),
    "zoom": (("28", "56", "84", "112"), ("parts+log", "pi")),
}


def measure(panel: str) -> None:
    """Run the study of a panel, or what is missing of it."""
    sizes, rules = PANELS[panel]
    out = Path("runs") / f"beyond_{panel}"
    options = ["--panels", panel, "--test-sizes", *sizes, "--scaling", *rules, "--out", str(out)]
    subprocess.run([sys.executable, "-m", "ropevit", "study", *COMMON, *options], check=True)
    shutil.copy(out / "results.json", RESULTS / f"beyond_{panel}.json")


def curves(results: dict[str, Any]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Gather scores by embedding and rule, then by size: one number a seed."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in results["runs"]:
        for rule, scores in {"": run["scores"], **run["scaled"]}.items():
            curve = found.setdefault((run["embedding"], rule), {})
            for size, score in scores.items():
                curve.setdefault(size, []).append(score)
    return found


def show(panel: str) -> Iterator[str]:
    """Lay a panel out as a table: mean ± standard deviation over the seeds."""
    results = json.loads((RESULTS / f"beyond_{panel}.json").read_text(encoding="utf-8"))
    found, metric = curves(results), results["runs"][0]["metric"]
    sizes = list(results["runs"][0]["scores"])
    where = results["environment"]
    yield f"{panel}: {metric}; torch {where['torch']}, {where['device']}, {where['precision']} in training"
    yield f"| trained | measured with | {' | '.join(sizes)} |"
    yield "|" + "---|" * (len(sizes) + 2)
    for (embedding, rule), curve in found.items():
        cells = [cell(curve[size]) for size in sizes]
        yield f"| `{embedding}` | {f'`{rule}`' if rule else '-'} | {' | '.join(cells)} |"


def draw(panel: str) -> None:
    """Draw the curves of a panel, each rule in a plot of its own."""
    results = json.loads((RESULTS / f"beyond_{panel}.json").read_text(encoding="utf-8"))
    figure = draw_curves(panel_results(results["runs"]))
    (RESULTS / f"beyond_{panel}.png").write_bytes(figure_bytes(figure, "png"))


def cell(scores: list[float]) -> str:
    """Write mean and spread."""
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.1f}{spread}"


def main() -> None:
    """Measure, or show what was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the results as tables")
    parser.add_argument("--panels", nargs="+", choices=list(PANELS), default=list(PANELS))
    arguments = parser.parse_args()
    for panel in arguments.panels:
        if not arguments.show:
            measure(panel)
        print("\n".join(show(panel)), end="\n\n")
        draw(panel)


if __name__ == "__main__":
    main()
