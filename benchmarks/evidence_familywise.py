"""How often the tests of `evidence.py` would find something where nothing differs, by simulation.

    python benchmarks/evidence_familywise.py

Every arm of a panel gets the same mean. Seeds are drawn from the normal distribution whose covariance over arms,
inference modes and test sizes is that of the committed scores over the seeds, so that all that the arms of a seed
share stays shared. Then the whole procedure runs: the best of several is picked, p is corrected, and Holm's thresholds
are applied. A hypothesis holds if all of its parts do, so it is found most often, while it is false, where all parts
but one are true by far: for every choice of one part of each hypothesis, the others get p = 0. And as Holm's thresholds
relax where other hypotheses are true, every set of hypotheses is made true (p = 0) in turn. Printed is the highest rate
of finding a false one over all these cases.
"""

import argparse
import itertools
from collections.abc import Sequence

import numpy as np
from evidence import SEEDS, TESTED, read
from evidence_report import HYPOTHESES, Curve, Scores, complete, gather, holm

ROUNDS = 2000
Column = tuple[Curve, int]


def residuals(scores: Scores) -> tuple[list[Column], np.ndarray]:
    """Return the columns that the tests can use, and their scores less their means, (seeds, columns)."""
    curves = [curve for curve in scores if curve.arm in TESTED.get(curve.panel, ())]
    columns = [(curve, size) for curve in curves for size in scores[curve]]
    values = np.array([[scores[curve][size][seed] for curve, size in columns] for seed in SEEDS])
    return columns, values - values.mean(0)


def without_effect(columns: Sequence[Column], rest: np.ndarray, random: np.random.Generator) -> Scores:
    """Draw scores of as many seeds, with the covariance of the residuals and equal means."""
    drawn = random.normal(size=(len(rest), len(rest))) @ rest / np.sqrt(len(rest) - 1)
    found: dict[Curve, dict[int, dict[int, float]]] = {}
    for (curve, size), values in zip(columns, drawn.T, strict=True):
        found.setdefault(curve, {})[size] = dict(zip(SEEDS, values.tolist(), strict=True))
    return found


def simulate(scores: Scores, rounds: int) -> list[dict[str, list[float]]]:
    """Return the corrected p of the parts of each hypothesis in each round."""
    columns, rest = residuals(scores)
    random = np.random.default_rng(0)
    drawn = (without_effect(columns, rest, random) for _ in range(rounds))
    return [{name: [part.p for part in test(found)] for name, test in HYPOTHESES.items()} for found in drawn]


def rates(scores: Scores, rounds: int = ROUNDS) -> dict[str, float]:
    """Return how often each hypothesis, and `any` of them, is found while it is false, in the worst case."""
    simulated = simulate(scores, rounds)
    found = dict.fromkeys([*HYPOTHESES, "any"], 0.0)
    parts = [range(len(simulated[0][name])) for name in HYPOTHESES]
    for choice in itertools.product(*parts):
        values = [{name: p[name][at] for name, at in zip(HYPOTHESES, choice, strict=True)} for p in simulated]
        for true in subsets(list(HYPOTHESES)):
            held = [holm({**each, **dict.fromkeys(true, 0.0)}) for each in values]
            false = [name for name in HYPOTHESES if name not in true]
            case = {name: float(np.mean([each[name] for each in held])) for name in false}
            case["any"] = float(np.mean([any(each[name] for name in false) for each in held]))
            found |= {name: max(found[name], rate) for name, rate in case.items()}
    return found


def subsets(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return every set of names but that of all."""
    return [chosen for count in range(len(names)) for chosen in itertools.combinations(names, count)]


def main() -> None:
    """Print the rates in percent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if missing := complete(read()):
        parser.error(f"the tests lack seeds of {missing[0]} and others; train them with benchmarks/evidence.py")
    found = {name: f"{100 * rate:.2f} %" for name, rate in rates(gather(read())).items()}
    print(f"{ROUNDS} rounds, at most: " + ", ".join(f"{name} {rate}" for name, rate in found.items()))


if __name__ == "__main__":
    main()
