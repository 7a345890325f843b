"""The published checkpoints: every key and shape, and the logits of the reference."""

import json

import numpy as np
import pytest
import torch

from ropevit.models import MODELS, ViT
from ropevit.models.registry import PUBLISHED
from ropevit.weights import create_model, load_weights
from ropevit.weights.infer import infer_model, similar_names
from ropevit.weights.match import match_state_dict
from ropevit.weights.parse import parse_checkpoint
from ropevit.weights.reading import Checkpoint
from weights.checkpoints import GOLDEN, LAYOUTS, POSITIONS, VITS, filled, recipe, small_shapes

CASES = [case for case in json.loads((GOLDEN / "golden.json").read_text()) if case.get("family") != "swin"]


@pytest.mark.parametrize("name", VITS)
def test_every_published_key_maps_to_a_weight_of_the_same_shape(name):
    with torch.device("meta"):
        model = ViT(MODELS[name])
        state = {key: torch.zeros(shape) for key, shape in LAYOUTS[name].items()}
    found = parse_checkpoint(Checkpoint(f"naver-ai/{name}", {"model": state}))
    ours, report = match_state_dict(model, found)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in ours.items()} == shapes
    assert report.layout == "published"
    assert set(report.dropped) == {key for key in state if key in recipe.DERIVED}
    same = {"deit": "rope_axial_ape_deit", "rope_axial_ape_deit": "deit"}  # fixed frequencies leave no trace
    kind = name.partition("_deit")[0] + "_deit" if "rope" in name else "deit"
    assert set(similar_names(infer_model(state))) == {name, name.replace(kind, same.get(kind, kind), 1)}


def test_the_registry_names_every_published_model():
    assert set(LAYOUTS) == {name for name, hub in PUBLISHED.items() if hub.startswith("naver-ai/")}


def test_no_published_name_is_suggested_for_another_depth(published):
    assert similar_names(infer_model(published("rope_mixed", width=384))) == []


@pytest.mark.parametrize("position", POSITIONS)
def test_a_small_published_model_loads_bit_for_bit(position):
    name = "deit_small_patch16_LS" if position == "ape" else f"{position}_deit_small_patch16_LS"
    shapes = small_shapes(position, width=384, patches=196, classes=1000)  # two of its twelve blocks
    model, state = create_model(name, depth=2), filled(shapes)
    report = load_weights(model, {"model": state})
    loaded = model.state_dict()
    assert report.loaded == len(loaded)
    for key, value in loaded.items():
        if key.endswith("rope.freqs"):
            assert torch.equal(value.flatten(1), state["freqs"][:, int(key.split(".")[1])])
        else:
            assert torch.equal(value, state[key])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_logits_are_those_of_the_reference(case, published, config):
    if "model" in case:
        model, state = create_model(case["model"]).eval(), filled(LAYOUTS[case["model"]])
    else:
        model, state = ViT(config(case["pos"])).eval(), published(case["pos"])
    load_weights(model, {"model": state, "epoch": 400})
    expected = torch.from_numpy(np.load(GOLDEN / "golden.npz")[case["case"]])
    images = torch.from_numpy(recipe.image(case["height"], case["width"], expected.shape[0]))
    with torch.no_grad():
        difference = (model(images) - expected).abs().max()
    assert difference <= 2e-4 * expected.abs().max()
