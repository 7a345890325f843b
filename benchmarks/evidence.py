"""Which position embedding, at which resolution? Trainings of a preregistered comparison.

    nice -n 19 python benchmarks/evidence.py               # train and evaluate what is missing, seed by seed
    nice -n 19 python benchmarks/evidence.py --arms core   # the arms of the hypotheses alone, in every panel
    nice -n 19 python benchmarks/evidence.py --arms tested # only the trainings that the tests use
    nice -n 19 python benchmarks/evidence.py --arms rope_star "rope_mixed_decay sizes" --panels field
    nice -n 19 python benchmarks/evidence.py --rerun       # train some of them again: the noise of a rerun
    nice -n 19 python benchmarks/evidence.py --scaled      # train some again, and evaluate with scaling methods, too
    nice -n 19 python benchmarks/evidence_drawings.py      # what other drawings would change
    python benchmarks/evidence_report.py                   # tables and tests, from what there is
    python benchmarks/evidence_figure.py --out FILE.png    # the curves that a reader chooses between

Each line of `results/evidence.jsonl` is a training: panel, arm, seed, and its scores in percent by inference mode or
scaling method and test size. Two processes may run side by side; a stopped one goes on from its checkpoints in
`runs/evidence`. The arm `floor` is not a training but the majority-class baseline. Lines since 30 November 2026 have
the commit of the code that wrote them (`19d7d357ef49+` is that commit, too: the only file that differed was that of
the results).

## Plan (committed before the first training)

Data: `load_emoji` with the groups of the study; trained on three artists, evaluated on the fourth, on whose drawings
nothing was chosen. Settings of the panels: `ropevit.study.settings.EMOJI`, chosen on the drawings of one of the
three. Seeds 300 to 307, which took part in no choice. Every arm of a seed has the same common initial weights and sees
the same images. A seed is evaluated on a bootstrap sample of the test drawings and on canvases of its own, the same for
all arms: the spread of differences over the seeds is that over trainings *and* images. Training and evaluation are in
float32.

Differences are taken between arms of the same seed. A hypothesis holds if every part of it has a mean difference above
0 with a two-sided p below its threshold in Student's t test over the seeds; its p is the largest of its parts, and the
thresholds for the four are Holm's at 0.05. "The best" of several is the one with the highest mean over the same seeds:
that favors it, so the best of the side that a hypothesis puts below is a hard opponent, and the best of the other side
is corrected by multiplying p with the number of its candidates. Intervals are 95 % by Student's t and by bootstrap over
seeds.

H1  RoPE-Mixed above RoPE-Axial, each without scaling: `field` at 2x and at 3x the training size.
H2  The best distance bias, without scaling, above the best rotation with the best of its scaling methods (none
    included) at 4x: in `field` and in `far`.
H3  The best of RoPE-Axial and RoPE-Mixed trained with random sizes, without scaling, above the best of the two trained
    at one size with the best scaling method, at 3x: in `field`, `far` and `zoom`.
H4  `rope_spiral` above RoPE-Mixed at 3x in `field`, both trained and evaluated on transposed canvases: the coupling of
    direction and speed is not what makes it lead. (Only if it leads on upright ones; else H4 is void and reported so.)

Everything else in the tables is exploratory. Noise of a rerun: two arms, two seeds, trained again with two threads, and
in bfloat16 (`--rerun`); these lines have `rerun` set and take no part in the tests.

## Remarks (added while the trainings ran; the plan above is as it was)

- Each seed resamples the same 182 test drawings of one artist, so the spread over the seeds does not include what other
  drawings would change: for them the intervals are too narrow, by up to the square root of 8 if images were all of it.
- Transposed canvases exchange the two axes of a scene whose axes are alike, so H4 tests whether the lead depends on
  which axis is the fast one, not whether the coupling causes it. `rope_star`, which has none, would.
- Random sizes reach 48 px (`far`: 64): 3 times the training size is 2 (2.25) times the largest size seen, and a step
  has more tokens on average, 81 against 64 (174 against 144).
- The trainings that the tests use ran first (`--arms tested`), so other arms have fewer seeds at first.
- Reruns with one thread, as the first time, are of every arm in the table of the tests, at one seed: other
  processors, and models for `evidence_drawings.py`, which measures what other drawings would change.
- Added on 30 November 2026, when the four tests were known and before its own trainings; exploratory, in no test: do a
  distance bias and a scaling method together what neither does alone, keep the score in `field` and in `far`? Asked of
  `rope_mixed_decay` and `rope_mixed_gaussian` at 3x and 4x, each with the two scaling methods of `SCALING`: in `far`
  over the same weights without scaling and over RoPE-Mixed with `parts(slow=0.5,fast=1)+log`; in `field` over the same
  weights without scaling and over RoPE-Mixed in tiles. And of `rope_mixed sizes`: does scaling add to random sizes?
  All eight seeds, trained again with the same settings (`--scaled`, lines with `rerun` set).
- H5, added on 30 November 2026 when of these trainings seed 300, and 301 of `rope_mixed_decay`, were known, because of
  what `rope_mixed sizes` scored at seed 300. RoPE-Mixed trained with random sizes and evaluated with
  `parts(slow=0.5,fast=1)+log` is above RoPE-Mixed trained at one size and evaluated with the same, at 3x and at 4x, in
  `field` and in `far`. A test of its own at 0.05, not among Holm's four, over the seeds 301 to 307, none of which was
  known for that arm; its p is the largest of its four parts. In `zoom`, where the label needs no larger scene, the same
  differences are exploratory.
- Of H5, added when its result was there: "known" above means with scaling; without, the scores of its arm at all eight
  seeds were known, as were those that it is compared with, and reruns come back alike. `rope_mixed_gaussian` was known
  at seed 301 of `field`, too. As a fifth test at 0.05 on the same drawings it is outside of the familywise rate of the
  four. Its trainings ran before the rest of `--scaled`; those of distance biases stopped at the seeds in the file.
"""

import argparse
import gc
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ropevit.data.emoji import STUDY_GROUPS, load_emoji
from ropevit.data.rng import make_generator
from ropevit.locks import lock_folder
from ropevit.machine import environment
from ropevit.study.events import Run
from ropevit.study.job import RunJob
from ropevit.study.panels import PANEL_CLASSES, FieldPanel, Panel
from ropevit.study.panels.canvases import CanvasPanel
from ropevit.study.settings import EMOJI
from ropevit.study.train import train

RESULTS = Path(__file__).parent / "results/evidence.jsonl"
MODELS = Path("runs/evidence")
SEEDS = tuple(range(300, 308))
#: Scaling methods of RoPE-Axial and RoPE-Mixed: what docs/scaling.md names for more of the scene and for more pixels.
SCALING = {
    "field": ("log", "parts(slow=0.5,fast=1)+log"),
    "zoom": ("pi", "parts(slow=0.5,fast=1)+log"),
    "far": ("log", "parts(slow=0.5,fast=1)+log"),
}
#: Test canvases of `field` and `far` at each size: half of the study's, as each seed has canvases of its own.
TEST_CANVASES = 100
#: Test sizes: the training size, 2, 3 and 4 times it.
SIZES = {"field": (32, 64, 96, 128), "zoom": (32, 64, 96, 128), "far": (48, 96, 144, 192)}
#: Random training sizes, around the training size.
TRAIN_SIZES = {"field": (24, 32, 48), "zoom": (24, 32, 48), "far": (44, 48, 64)}
JITTER = "jitter(rescale=2)"
#: Name of the majority-class baseline, a model that learned nothing: every pixel background (`field`), or the most
#: frequent label of the test images.
FLOOR = "floor"


class Arm(NamedTuple):
    """A position embedding and how it is trained."""

    embedding: str
    training: str = ""
    """`sizes` for random training sizes, `jitter` for jitter of coordinates, `transposed` for transposed canvases."""

    def __str__(self) -> str:
        return f"{self.embedding} {self.training}".strip()


ROTATIONS = ("rope_axial", "rope_mixed")
#: The arms of the hypotheses.
CORE = (
    *(Arm(name) for name in ("none", "ape", *ROTATIONS, "alibi_learned", "rope_mixed_decay", "rope_mixed_gaussian")),
    *(Arm(name, "sizes") for name in ROTATIONS),
    Arm("rope_spiral"),
    *(Arm(name, "transposed") for name in ("rope_mixed", "rope_spiral")),
)
#: Further arms.
EXPLORED = (
    *(Arm(name) for name in ("alibi", "fire", "log_cpb", "lookhere", "rope_axial_decay", "rope_axial:theta=10")),
    *(Arm(name) for name in ("rope_mixed:theta=100", "rope_star", "rope_simplex", "rope_golden", "rope_polar")),
    *(Arm(name, "jitter") for name in ROTATIONS),
    Arm("rope_mixed_decay", "sizes"),
)
GROUPS = {"core": CORE, "tested": CORE, "explored": EXPLORED, "all": (*CORE, *EXPLORED)}
ARMS = {str(arm): arm for arm in GROUPS["all"]}
BIASES = ("alibi_learned", "rope_mixed_decay", "rope_mixed_gaussian")
RANDOM_SIZES = tuple(f"{name} sizes" for name in ROTATIONS)
#: What the tests use: panel -> arms.
TESTED = {
    "field": [*ROTATIONS, *BIASES, *RANDOM_SIZES, "rope_spiral", "rope_mixed transposed", "rope_spiral transposed"],
    "zoom": [*ROTATIONS, *RANDOM_SIZES],
    "far": [*ROTATIONS, *BIASES, *RANDOM_SIZES],
}
#: Arms and seeds of the reruns, and how they are trained: threads and precision.
RERUNS = [(Arm(name), seed) for name in ROTATIONS for seed in SEEDS[:2]]
RERUN_SETTINGS = {"2 threads": (2, torch.float32), "bfloat16": (1, torch.bfloat16)}
SAME_SETTINGS = "1 thread"
#: Reruns that are evaluated with scaling methods, too.
WITH_SCALING = "1 thread, with scaling"
SCALED_ARMS = tuple(ARMS[name] for name in ("rope_mixed_decay", "rope_mixed_gaussian", "rope_mixed sizes"))


class TransposedPanel(FieldPanel):
    """`field` with rows and columns exchanged, in training and evaluation."""

    def batch(self, seed: int, step: int, size: int | None = None) -> tuple[Any, Any]:
        """Return the transposed canvases of a step."""
        canvases, labels = super().batch(seed, step, size)
        return canvases.mT.contiguous(), labels.mT.contiguous()

    def canvases(self, size: int) -> Iterator[tuple[Any, Any]]:
        """Return the transposed test canvases."""
        for canvases, labels in super().canvases(size):
            yield canvases.mT.contiguous(), labels.mT.contiguous()


@lru_cache(maxsize=1)
def panels(seed: int) -> dict[str, Panel]:
    """Make the panels of a seed, with a bootstrap sample of the drawings of the test artist."""
    gc.collect()  # the panels of the seed before refer to their own caches
    train, test = (load_emoji(split, groups=STUDY_GROUPS) for split in ("train", "test"))
    sample = torch.randint(len(test), (len(test),), generator=make_generator("evidence", "test drawings", seed))
    images = train, test.subset(sample.sort().values, f"{test.name}/{seed}")
    settings = {
        name: replace(EMOJI[name], test_sizes=sizes, test_canvases=TEST_CANVASES) for name, sizes in SIZES.items()
    }
    made = {name: PANEL_CLASSES[name](settings[name], *images) for name in SIZES}
    for panel in made.values():
        panel.batch = keep_batches(panel.batch)
    made["transposed"] = TransposedPanel(settings["field"], *images)
    for panel in made.values():
        if isinstance(panel, CanvasPanel):
            panel.canvases = keep_canvases(panel.canvases)
    return made


def keep_batches(batch: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Draw every batch once, as all arms of a seed train on the same images."""
    return lru_cache(maxsize=None)(lambda *which: tuple(tensor.clone() for tensor in batch(*which)))


def keep_canvases(canvases: Callable[[int], Iterator[Any]]) -> Callable[[int], Iterator[Any]]:
    """Paint the test canvases of a size once, as all arms of a seed are evaluated on the same ones."""
    painted = lru_cache(maxsize=None)(lambda size: list(canvases(size)))
    return lambda size: iter(painted(size))


def plan(arms: tuple[Arm, ...], names: list[str], rerun: bool) -> Iterator[tuple[str, Arm, int, str]]:
    """Yield panel, arm, seed and rerun of every training, one seed after another."""
    if rerun:
        yield from ((name, arm, seed, how) for arm, seed in RERUNS for name in names for how in RERUN_SETTINGS)
        return
    for seed in SEEDS:
        for arm in arms:
            yield from ((name, arm, seed, "") for name in names if name == "field" or arm.training != "transposed")


def plan_scaled(arms: tuple[Arm, ...], names: list[str]) -> Iterator[tuple[str, Arm, int, str]]:
    """Yield panel, arm, seed and rerun of the trainings that are evaluated with scaling methods, too."""
    wanted = [arm for arm in SCALED_ARMS if arm in arms]
    yield from ((name, arm, seed, WITH_SCALING) for seed in SEEDS for arm in wanted for name in names)


def key(name: str, arm: Arm, seed: int, rerun: str) -> dict[str, Any]:
    """Return the entries that identify a training in the results."""
    return {"panel": name, "arm": str(arm), "seed": seed, "rerun": rerun}


def read(path: Path = RESULTS) -> list[dict[str, Any]]:
    """Read the results that there are."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def do(panel: Panel, name: str, arm: Arm, seed: int, rerun: str) -> dict[str, Any]:
    """Train and evaluate a model, from its checkpoint if there is one, and return its line of the results."""
    threads, dtype = RERUN_SETTINGS.get(rerun, (1, torch.float32))  # others: the first settings
    torch.set_num_threads(threads)
    run = Run(
        panel=name,
        embedding=arm.embedding,
        seed=seed,
        train_scaling=JITTER if arm.training == "jitter" else None,
        train_sizes=TRAIN_SIZES[name] if arm.training == "sizes" else None,
    )
    job = RunJob(
        run=run,
        panel=panel,
        folder=folder(name, arm, seed, rerun),
        device=torch.device("cpu"),
        dtype=dtype,
        report=lambda _: None,
        should_stop=lambda: False,
        scaling=SCALING[name] if str(arm) in ROTATIONS or rerun == WITH_SCALING else (),
    )
    begin = time.process_time()
    result = train(job)
    scores = {"whole": result["scores"], **result["scaled"], **result["baselines"]}
    where = environment(job.device, dtype, workers=1, threads=threads)
    seconds = round(time.process_time() - begin)
    facts = {"cpu_seconds": seconds, "environment": where, "commit": commit()}
    return key(name, arm, seed, rerun) | {"scores": scores} | facts


@lru_cache(maxsize=1)
def commit() -> str:
    """Return the commit of the code that runs; `+` after it if tracked files other than results differ from it."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results"], check=False)
    return head.stdout.strip() + "+" * bool(changed.returncode)


def floors(panel: Panel, name: str, seed: int) -> dict[str, Any]:
    """Return the line of the majority-class baseline, on the test images of a seed."""
    scores = {str(size): round(panel.majority_score(size).score, 4) for size in SIZES[name]}
    return key(name, Arm(FLOOR), seed, "") | {"scores": {"whole": scores}}


def folder(name: str, arm: Arm, seed: int, rerun: str) -> Path:
    """Return the directory of a training run."""
    parts = name, str(arm), str(seed), rerun
    return MODELS / "-".join(part.replace(" ", "_").replace(":", "_") for part in parts if part)


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=[*GROUPS, *ARMS], default=["all"], metavar="ARM")
    parser.add_argument("--panels", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rerun", action="store_true", help="measure the noise of a rerun")
    parser.add_argument("--scaled", action="store_true", help="train again, and evaluate with scaling methods, too")
    parser.add_argument("--floors", action="store_true", help="scores of the majority-class baseline, arm `floor`")
    arguments = parser.parse_args()
    if arguments.floors:
        for seed in SEEDS:
            for name in arguments.panels:
                if not is_done(key(name, Arm(FLOOR), seed, "")):
                    write(floors(panels(seed)[name], name, seed))
        return
    arms = tuple(dict.fromkeys(arm for given in arguments.arms for arm in GROUPS.get(given) or [ARMS[given]]))
    if arguments.scaled and arguments.rerun:
        parser.error("got --rerun and --scaled; give one of them: they are different trainings")
    if arguments.scaled and not set(arms) & set(SCALED_ARMS):
        parser.error(f"got no arm for --scaled; choose from {', '.join(map(str, SCALED_ARMS))}")
    scaled = plan_scaled(arms, arguments.panels)
    for training in scaled if arguments.scaled else plan(arms, arguments.panels, arguments.rerun):
        name, arm, _, _ = training
        if arguments.arms != ["tested"] or str(arm) in TESTED[name]:
            do_missing(*training)


def do_missing(name: str, arm: Arm, seed: int, rerun: str) -> None:
    """Do a training and write its line, unless the results have it or another process is at it."""
    if is_done(key(name, arm, seed, rerun)):
        return
    try:
        with lock_folder(folder(name, arm, seed, rerun)):
            if is_done(key(name, arm, seed, rerun)):  # by another process, meanwhile
                return
            line = do(panels(seed)["transposed" if arm.training == "transposed" else name], name, arm, seed, rerun)
            write(line)
    except ValueError as error:
        if "another process" not in str(error):
            raise
        return
    found = {mode: list(scores.values()) for mode, scores in line["scores"].items()}
    print(name, arm, seed, rerun, found, flush=True)


def is_done(wanted: Mapping[str, Any]) -> bool:
    """Return whether the results have a line."""
    return any(wanted.items() <= line.items() for line in read())


def write(line: Mapping[str, Any]) -> None:
    """Append a line to the results, in one write: lines of two processes do not mix."""
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + os.linesep)


if __name__ == "__main__":
    main()
