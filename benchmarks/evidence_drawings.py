"""What other test drawings would change in the differences that the tests of `evidence.py` are about.

    nice -n 19 python benchmarks/evidence_drawings.py                     # evaluate what is missing (resumable), print
    python benchmarks/evidence_drawings.py --update docs/evidence.md      # also replace the table of a page

The seeds of `evidence.py` resample the same 182 drawings, so an interval over the seeds has no part for the choice of
these drawings, which all seeds share. Here the arms of the tests are trained again at one seed and evaluated on
`RESAMPLES` further bootstrap samples of the drawings, with canvases of their own. The standard deviation of a
difference over these samples estimates how much another set of 182 drawings of the same artist would move it. It is
too large rather than too small for that: it is of single trainings, not of a mean over seeds; it contains the choice of
canvases; and an eighth of both variances is in the interval over the seeds already.

Each line of `results/evidence_drawings.jsonl` is a sample: scores in percent by curve and test size.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import evidence
import torch
from evidence_report import HYPOTHESES, Curve, Difference, Scores, gather, update
from pooled import table
from scipy import stats

from ropevit import load_model, set_scaling
from ropevit.models.vit import ViT

RESULTS = Path(__file__).parent / "results/evidence_drawings.jsonl"
SEED = evidence.SEEDS[0]
#: Seeds of the samples of drawings and of their canvases: none of a training.
RESAMPLES = range(1000, 1016)


def parts(scores: Scores) -> list[Difference]:
    """Return the differences that the tests are about."""
    return [part for test in HYPOTHESES.values() for part in test(scores)]


def wanted(found: Sequence[Difference]) -> list[tuple[Curve, int]]:
    """Return each curve and size that takes part in a difference, once."""
    return list(dict.fromkeys((curve, part.size) for part in found for curve in (part.above, part.below)))


@cache
def trained(panel: str, name: str) -> ViT:
    """Return the model of an arm at `SEED`, trained again if it has not been."""
    arm = evidence.ARMS[name]
    path = evidence.folder(panel, arm, SEED, evidence.SAME_SETTINGS) / "model.safetensors"
    if not path.exists():
        evidence.do_missing(panel, arm, SEED, evidence.SAME_SETTINGS)
    model, _ = load_model(path)
    assert isinstance(model, ViT)
    return model.eval()


@torch.no_grad()
def score(curve: Curve, size: int, seed: int) -> float:
    """Return the score of a curve's model on a sample of drawings and its canvases."""
    model = trained(curve.panel, curve.arm)
    panel = evidence.panels(seed)["transposed" if "transposed" in curve.arm else curve.panel]
    set_scaling(model, None if curve.mode == "whole" else curve.mode)
    return panel.score(model, size, check=lambda: None)


def line_of(seed: int, curves: Sequence[tuple[Curve, int]]) -> dict[str, Any]:
    """Return the line of a sample of drawings."""
    scores = [{**curve._asdict(), "size": size, "score": round(score(curve, size, seed), 4)} for curve, size in curves]
    return {"resample": seed, "seed": SEED, "scores": scores}


def scores_of(line: Mapping[str, Any]) -> dict[tuple[Curve, int], float]:
    """Return the scores of a line by curve and size."""
    return {
        (Curve(found["panel"], found["arm"], found["mode"]), found["size"]): found["score"] for found in line["scores"]
    }


def spread(part: Difference, lines: Sequence[Mapping[str, Any]]) -> float:
    """Return the standard deviation over the samples of drawings of a difference, in points."""
    scores = [scores_of(line) for line in lines]
    return torch.tensor([found[part.above, part.size] - found[part.below, part.size] for found in scores]).std().item()


def whole(lines: Sequence[Mapping[str, Any]], curves: Sequence[tuple[Curve, int]]) -> list[Mapping[str, Any]]:
    """Return the lines that have every score, the last of each sample: the curves change if others become the best."""
    return [*{line["resample"]: line for line in lines if scores_of(line).keys() >= set(curves)}.values()]


def both(part: Difference, lines: Sequence[Mapping[str, Any]]) -> float:
    """Return half of a 95 % interval over trainings and drawings: Student's t, with the degrees of the trainings."""
    error = math.hypot(float(stats.sem(part.values)), spread(part, lines))
    return error * float(stats.t.ppf(0.975, len(part.values) - 1))


def drawings_table(results: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of the differences with both intervals: over trainings, and over trainings and drawings."""
    rows = []
    for part in parts(gather(results)):
        compared, difference, *_ = part.cells()
        mean = float(torch.tensor(part.values).mean())
        half = both(part, lines)
        text = f"{mean:+.1f} ± {half:.1f}"
        rows.append([compared, difference, f"{spread(part, lines):.1f}", f"**{text}**" if abs(mean) > half else text])
    return table(["part", "over trainings", "sd over drawings and canvases", "over trainings and drawings"], rows)


def evaluate_missing(curves: Sequence[tuple[Curve, int]]) -> None:
    """Evaluate the samples that are missing, one after another."""
    done = {line["resample"] for line in whole(evidence.read(RESULTS), curves)}
    missing = [seed for seed in RESAMPLES if seed not in done]
    for curve, _ in curves if missing else ():
        trained(curve.panel, curve.arm)
    for seed in missing:
        line = line_of(seed, curves)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(f"sample {seed}: {len(line['scores'])} scores", flush=True)


def main() -> None:
    """Evaluate what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", type=Path, help="a page whose table to replace")
    arguments = parser.parse_args()
    if arguments.update and "| part |" not in arguments.update.read_text(encoding="utf-8"):
        parser.error(f"{arguments.update} has no table that begins with | part |; add its first line where it belongs")
    torch.set_num_threads(1)
    results = evidence.read()
    curves = wanted(parts(gather(results)))
    evaluate_missing(curves)
    found = drawings_table(results, whole(evidence.read(RESULTS), curves))
    print("\n".join(found))
    if arguments.update:
        update(arguments.update, [found])


if __name__ == "__main__":
    main()
