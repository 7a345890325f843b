"""The stored set-ups of detrex's DINO, and a detector filled as they say."""

import importlib.util
import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ropevit.tasks.detect.boxes import make_target
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.detrex import load_detrex
from ropevit.tasks.detect.dino import Dino

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = {case["case"]: case for case in json.loads((GOLDEN / "dino.json").read_text())}
ARRAYS = np.load(GOLDEN / "dino.npz")
SIZES = [(120, 160), (144, 96)]
OBJECTS = [
    ([1, 4, 6], [[10, 10, 60, 70], [30, 20, 150, 110], [5, 60, 40, 100]]),
    ([2], [[12, 15, 70, 120]]),
]

spec = importlib.util.spec_from_file_location("golden_recipe", GOLDEN / "recipe.py")
assert spec is not None
assert spec.loader is not None
recipe = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipe)


def weights(case):
    """Return the weights of a set-up by detrex's names, tied ones filled alike."""
    return dict(drawn(case["case"]))


@cache
def drawn(name):
    case = CASES[name]
    first = {name: min(names, key=len) for names in case["tied"] for name in names}
    return {
        key: torch.from_numpy(np.asarray(recipe.weight(first.get(key, key), tuple(shape)), dtype=np.float32))
        for key, shape in case["layout"].items()
    }


def detector(case, **changes):
    """Make the detector of a set-up, with its weights."""
    fields = {"classes": case["classes"], "queries": case["queries"], "levels": case["levels"]}
    layers = {"encoder_layers": case["encoder_layers"], "decoder_layers": case["decoder_layers"]}
    noise = {"label_noise": 0.0, "box_noise": 0.0}
    model = Dino(DinoConfig(**(fields | layers | noise | changes)), case["channels"])
    load_detrex(model, weights(case))
    return model


def feature_maps(case, height=144, width=160):
    """Return the backbone's maps of both images."""
    maps = []
    for index, (stride, channels) in enumerate(zip(case["strides"], case["channels"], strict=True)):
        whole = recipe.feature_map(case["case"], index, channels, math.ceil(144 / stride), math.ceil(160 / stride))
        maps.append(torch.from_numpy(whole)[..., : math.ceil(height / stride), : math.ceil(width / stride)])
    return maps


def targets():
    """Return the objects of both images."""
    return [
        make_target(torch.tensor(labels), torch.tensor(boxes, dtype=torch.float32), size, 7)
        for (labels, boxes), size in zip(OBJECTS, SIZES, strict=True)
    ]
