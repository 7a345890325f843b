"""A detector starts from another: all of it, or all but what belongs to its classes."""

from dataclasses import replace

import pytest
import torch

from ropevit.tasks.dense.init_weights import init_model
from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.model import DETECTOR, Detector, DetectorConfig, load_detector, save_detector
from ropevit.tasks.detect.train import train
from ropevit.tasks.training.events import Notice
from ropevit.weights import WeightsError
from tasks.detect.generated import small_training, write_images

DINO = DinoConfig(queries=8, width=32, heads=2, mlp_width=32, encoder_layers=1, decoder_layers=2)
SMALL = DetectorConfig(model="deit_tiny", position="rope_axial", width=32, depth=1, heads=2, init=None, dino=DINO)


@pytest.fixture
def saved(tmp_path):
    """Return a detector of three classes, every weight random, and its file."""
    model = Detector(SMALL, 3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_()
    save_detector(tmp_path / "first.safetensors", model, SMALL, list("abc"), {})
    return model, str(tmp_path / "first.safetensors")


def same(one, two):
    return {name for name, value in one.state_dict().items() if torch.equal(value, two.state_dict()[name])}


def test_all_weights_are_loaded_if_the_classes_are_equal(saved):
    (model, path), said = saved, []
    config = replace(SMALL, init=path, drop_path=0.3, dino=replace(DINO, denoising=7, loss_box=2.0))
    found = init_model(DETECTOR, config, ("a", "b", "c"), said.append)
    assert same(found, model) == set(model.state_dict())
    assert found.dino.config.denoising == 7
    assert said == [f"loaded all weights of the detector {path}, which has the same 3 classes"]


@pytest.mark.parametrize("classes", [("a", "b", "c", "d", "e"), ("a", "c", "b")])
def test_class_heads_are_new_and_reported_if_the_classes_differ(saved, classes):
    (model, path), said = saved, []
    found = init_model(DETECTOR, replace(SMALL, init=path), classes, said.append)
    new = {name for name in found.state_dict() if name.startswith(("dino.class_heads.", "dino.label_embedding."))}
    assert len(new) == 2 * 3 + 1
    shared = set(found.state_dict()) - new
    assert all(torch.equal(found.state_dict()[name], model.state_dict()[name]) for name in shared)
    assert all(not torch.equal(found.state_dict()[name][:1], model.state_dict()[name][:1]) for name in new)
    assert found.dino.class_heads[0].bias.eq(found.dino.class_heads[0].bias[0]).all(), "the prior of a new head"
    assert said == [
        f"loaded the backbone and DINO of the detector {path}; the class heads and the label embedding are newly "
        f"initialized, as its 3 classes differ from the {len(classes)} of the data"
    ]


@pytest.mark.parametrize(("changes", "message"), [
    ({"position": "ape"}, "position: 'rope_axial' instead of 'ape'"),
    ({"heads": 4}, "heads: 2 instead of 4"),
    ({"window": 7}, "window: 14 instead of 7"),
    ({"layer_scale": False}, "layer_scale: True instead of False"),
    ({"dino": replace(DINO, heads=4)}, r"dino\.heads: 2 instead of 4"),
    ({"dino": replace(DINO, queries=9)}, r"dino\.queries: 8 instead of 9"),
])  # fmt: skip
def test_incompatible_detector_is_refused_naming_the_differences(saved, changes, message):
    with pytest.raises(WeightsError, match=f"holds an incompatible detector \\({message}.*; give its options"):
        init_model(DETECTOR, replace(SMALL, init=saved[1], **changes), list("abc"))


def test_training_starts_from_a_detector_and_reports_it(tmp_path):
    coco_root, events = write_images(tmp_path / "coco"), []
    config = small_training(coco_root, tmp_path / "run", steps=1)
    path = tmp_path / "first.safetensors"
    model = Detector(config.model, 5)
    save_detector(path, model, config.model, list("abcde"), {})
    train(replace(config, model=replace(config.model, init=str(path))), events.append)
    lines = [event.message for event in events if isinstance(event, Notice)]
    assert any(line.startswith("loaded the backbone and DINO of the detector") for line in lines)
    found, info = load_detector(tmp_path / "run" / "model.safetensors")
    assert info.classes == ["disc", "square", "triangle"]
    before, after = (m.backbone.body.blocks[0].mlp.fc1.weight for m in (model, found))
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, before, rtol=0, atol=0.02)  # one step of at most the learning rate away
