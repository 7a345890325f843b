"""Extrapolation: rope types and RoPE scaling methods at 1 to 4 times the training size.

    python benchmarks/beyond.py           # train and evaluate what is missing: three seeds, hours on two cores
    python benchmarks/beyond.py --show    # print the results, and redraw the figures of results/fashion_study.md

Runs two studies on the test images, which no setting was chosen on, and stores their results:

    ropevit study --panels field --test-sizes 32 64 96 128 ...
    ropevit study --panels zoom --test-sizes 28 56 84 112 ...

`pooled.py` prints the tables of results/fashion_study.md: differences with intervals.
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
COMMON = ["--embeddings", "rope_axial", "rope_mixed", "--rope-types", "all", "--seeds", "3", "--resume"]
#: panel -> test sizes and scaling methods.
PANELS = {
    "field": (("32", "64", "96", "128"), ("parts+log", "parts(slow=0.5,fast=1)+log", "pi")),
    "zoom": (("28", "56", "84", "112"), ("parts+log", "pi")),
}


def run_panel(panel: str) -> None:
    """Run the study of a panel, or its missing trainings."""
    sizes, methods = PANELS[panel]
    out = Path("runs") / f"beyond_{panel}"
    options = ["--panels", panel, "--test-sizes", *sizes, "--scaling", *methods, "--out", str(out)]
    subprocess.run([sys.executable, "-m", "ropevit", "study", *COMMON, *options], check=True)
    shutil.copy(out / "results.json", RESULTS / f"beyond_{panel}.json")


def curves(results: dict[str, Any]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Collect scores by embedding and scaling, then by size: one per seed."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in results["runs"]:
        for scaling, scores in {"": run["scores"], **run["scaled"]}.items():
            curve = found.setdefault((run["embedding"], scaling), {})
            for size, score in scores.items():
                curve.setdefault(size, []).append(score)
    return found


def show(panel: str) -> Iterator[str]:
    """Yield the lines of a panel's table: mean ± standard deviation over the seeds."""
    results = json.loads((RESULTS / f"beyond_{panel}.json").read_text(encoding="utf-8"))
    found, metric = curves(results), results["runs"][0]["metric"]
    sizes = list(results["runs"][0]["scores"])
    where = results["environment"]
    yield f"{panel}: {metric}; torch {where['torch']}, {where['device']}, {where['precision']} in training"
    yield f"| trained | measured with | {' | '.join(sizes)} |"
    yield "|" + "---|" * (len(sizes) + 2)
    for (embedding, scaling), curve in found.items():
        cells = [cell(curve[size]) for size in sizes]
        yield f"| `{embedding}` | {f'`{scaling}`' if scaling else '-'} | {' | '.join(cells)} |"


def draw(panel: str) -> None:
    """Draw the curves of a panel, one plot per scaling method."""
    results = json.loads((RESULTS / f"beyond_{panel}.json").read_text(encoding="utf-8"))
    figure = draw_curves(panel_results(results["runs"]))
    (RESULTS / f"beyond_{panel}.png").write_bytes(figure_bytes(figure, "png"))


def cell(scores: list[float]) -> str:
    """Format mean and standard deviation."""
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.1f}{spread}"


def main() -> None:
    """Run the studies unless --show is given, then print and draw the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="only print and draw existing results")
    parser.add_argument("--panels", nargs="+", choices=list(PANELS), default=list(PANELS))
    arguments = parser.parse_args()
    for panel in arguments.panels:
        if not arguments.show:
            run_panel(panel)
        print("\n".join(show(panel)), end="\n\n")
        draw(panel)


if __name__ == "__main__":
    main()
