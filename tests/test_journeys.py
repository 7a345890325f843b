"""What a user gets by default: every verb as it is typed, with default workers, precision, device and sizes to test at.

Sizes of models, images and trainings are cut, ways of doing things are not. A row more is a journey more.
"""

import os
import re
import shlex
from fnmatch import fnmatch
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the commands are copies of a process"),
    pytest.mark.full,  # the commands are tested one by one in tests/cli
]

#: Trainings cut to a second: recipe, data and the options that name sizes.
DEIT = "train deit3_small --data photos --size 32 --patch-size 8 --width 32 --depth 2 --heads 2 --batch-size 8"
DINO = (
    "train detect/dino_vitdet_base --data coco --init-from None --width 32 --depth 4 --heads 2 --window-size 4 "
    "--dino.width 64 --dino.queries 20 --dino.denoising 4 --dino.mlp-width 32 --dino.encoder-layers 1 "
    "--dino.decoder-layers 2 "
    "--short-edge-lengths 64 96 --max-size 128 --pre-crop-edge-lengths 64 --test-size 64 --batch-size 3 --epochs 1"
)
UPERNET = (
    "train segment/upernet_vit_base --data ade --init-from None --width 32 --depth 4 --heads 2 --out-indices 0 1 2 3 "
    "--upernet.channels 16 --upernet.auxiliary-channels 16 --crop-size 64 --short 64 --long 128 --test-short 64 "
    "--test-long 128 --batch-size 4 --steps 3 --warmup-steps 1"
)
STUDY = "study --data photos --quick --panels zoom --embeddings rope_mixed --width 16 --depth 1 --heads 2 --steps 2"

EVALUATION = "eval.csv", "per_class.csv", "eval.json", "curve.png"
CONFUSION = "confusion.csv", "confusion.png"


class Row(NamedTuple):
    """A command, and what has to come of it."""

    command: str
    makes: tuple[str, ...] = ()
    """Patterns of files that have to be there afterwards."""
    code: int = 0
    """Its exit code."""
    says: str = ""
    """What it has to print, among other things."""
    ctrl_c_after: str | None = None
    """The file that has to grow before Ctrl-C is pressed."""


def trial(command, out):
    """The rows of a training that is stopped after a step, and gone on with."""
    first = f"{out}/best.safetensors", f"{out}/checkpoints/step-00000001.pt", f"{out}/config.json"
    return (
        Row(f"{command} --out {out} --max-steps 1", first, says="with --resume"),
        Row(f"{command} --out {out} --resume", (f"{out}/model.safetensors",), says="resuming from step 1"),
    )


def refused(command, says):
    """The row of a command that is told in one line why not."""
    return Row(command, code=2, says=says)


JOURNEYS = {
    "classifier": (
        Row("data show photos", ("data-train.png",)),
        Row(
            f"{DEIT} --out runs/deit --max-steps 2",
            ("runs/deit/best.safetensors", "runs/deit/train_batches.png"),
            says="with --resume",
        ),
        Row(
            f"{DEIT} --out runs/deit --log-interval 1 --resume",
            ("runs/deit/checkpoints/*.pt",),
            code=130,
            says="as asked by SIGINT",
            ctrl_c_after="runs/deit/metrics.jsonl",
        ),
        Row(
            "eval --checkpoint runs/deit --data photos --out scores",
            tuple(f"scores/{name}" for name in (*EVALUATION, *CONFUSION, "worst.csv", "worst.png")),
        ),
        Row(
            "predict photos/val --checkpoint runs/deit --out guesses",
            ("guesses/predictions.csv", "guesses/predictions.json"),
            says="green",
        ),
        Row(
            "export deit.pt2 --format torch --checkpoint runs/deit",
            ("deit.pt2",),
            says="dynamic: batch; height and width, in multiples of 8 pixels, at least 16",
        ),
        Row(
            "push runs/deit me/deit --evals scores --out shared",
            ("shared/model.safetensors", "shared/README.md", "shared/curve.png"),
            says="no license is stated",
        ),
        Row("predict photos/val --checkpoint shared --out again", ("again/predictions.csv",)),
        Row("runs runs", ("runs/runs.png",), says="deit3_small"),
    ),
    "a classifier's files": (  # by default tests/cli has these verbs, without a process for each
        Row(f"{DEIT} --out runs/deit --max-steps 2", ("runs/deit/best.safetensors",), says="with --resume"),
        Row("eval --checkpoint runs/deit --data photos --out scores", tuple(f"scores/{name}" for name in EVALUATION)),
        Row("convert runs/deit/best.safetensors deit.safetensors", ("deit.safetensors",)),
        Row(
            "figures all --checkpoint runs/deit --images photos --evals scores --out drawn",
            ("drawn/figures.html", "drawn/entropy.svg", "drawn/extrapolation.csv"),
        ),
        Row("reproduce vit --runs runs --only *mixed*small*", says="ropevit train deit3_small"),
    ),
    "detector": (
        Row("data make-tiny coco coco --train 8 --val 3", ("coco/annotations/instances_train2017.json",)),
        Row("data check coco", says="no problems found"),
        Row("data show coco", ("data-train.png",)),
        *trial(DINO, "runs/dino"),
        Row("eval --checkpoint runs/dino --data coco --out scores", tuple(f"scores/{name}" for name in EVALUATION)),
        Row("predict coco/val2017 --checkpoint runs/dino", ("predictions/detections.json", "predictions/*.png")),
        Row(
            "figures all --checkpoint runs/dino --evals scores --out drawn",
            ("drawn/figures.html", "drawn/frequencies.svg", "drawn/extrapolation.csv"),
        ),
        refused("export dino.onnx --checkpoint runs/dino --int8", "got --int8 with a detector; it is for classifiers"),
    ),
    "segmenter": (
        Row("data make-tiny ade ade --train 8 --val 3", ("ade/annotations/training/*.png",)),
        Row("data check ade", says="no problems found"),
        Row("data show ade --split val --count 2", ("data-val.png",)),
        *trial(UPERNET, "runs/upernet"),
        Row(
            "eval --checkpoint runs/upernet --data ade --out scores",
            tuple(f"scores/{name}" for name in (*EVALUATION, *CONFUSION)),
        ),
        Row(
            "predict ade/images/validation --checkpoint runs/upernet",
            ("predictions/*.png", "predictions/labels/*.png", "predictions/classes.txt"),
        ),
        Row(
            "figures all --checkpoint runs/upernet --evals scores --out drawn",
            ("drawn/figures.html", "drawn/frequencies.svg", "drawn/extrapolation.csv"),
        ),
        refused(
            "export upernet.onnx --checkpoint runs/upernet --int8",
            "got --int8 with a segmenter; it is for classifiers",
        ),
    ),
    "the rest": (
        Row(f"{STUDY} --out study", ("study/report.html", "study/curves.png", "study/results.json")),
        Row("predict photos/val --checkpoint study/runs/zoom-rope_mixed-seed0", says="green"),
        Row("export zoom.onnx --checkpoint study/runs/zoom-rope_mixed-seed0", ("zoom.onnx",), says="dynamic: batch;"),
        Row("bench op --quick --out bench", ("bench/bench.csv", "bench/bench.md", "bench/bench.png")),
        Row("models swin_rope_mixed_tiny*", says="28.27M"),
        Row("data check photos", says="no problems found"),
        Row(f"{DINO} --estimate", says="GiB"),
    ),
}


@pytest.fixture
def at_home(tmp_path):
    """A folder with a user's photos, in which commands are run."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for channel, name in enumerate(("red", "green", "blue")):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = noise.integers(0, 80, (40 + number, 48, 3))
                pixels[..., channel] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def faults(row, result, folder):
    """Name what is not as a row has it."""
    if result.code != row.code:
        yield f"exit code {result.code}, not {row.code}"
    # Python notes a semaphore of a data worker that took so long to end, on a busy machine, that it was stopped.
    printed = re.sub(r".*resource_tracker\.py:\d+: UserWarning: .*\n.*warnings\.warn.*\n?", "", result.printed)
    for word in ("Traceback", "Warning"):
        if word in printed:
            yield f"a {word}"
    if row.says not in " ".join(result.printed.split()):
        yield f"no word of {row.says!r}"
    if row.code == 2 and (count := len(result.printed.strip().splitlines())) != 1:
        yield f"{count} lines, not one"
    for pattern in row.makes:
        found = [path for path in folder.rglob("*") if fnmatch(path.relative_to(folder).as_posix(), pattern)]
        if not found or not all(path.stat().st_size for path in found):
            yield f"no {pattern}"


@pytest.mark.parametrize("name", JOURNEYS)
def test_every_default_runs(name, run_command, at_home):
    wrong = []
    for row in JOURNEYS[name]:
        result = run_command(at_home, shlex.split(row.command), row.ctrl_c_after)
        if found := list(faults(row, result, at_home)):
            wrong.append(f"{row.command}\n  {'; '.join(found)}\n{result.printed[-1500:]}")
    assert not wrong, "\n".join(wrong)
