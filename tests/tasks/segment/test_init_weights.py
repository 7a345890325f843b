"""A segmenter starts from another: all of it, or all but what belongs to its classes."""

from dataclasses import replace

import pytest
import torch

from ropevit.tasks.dense.init_weights import init_model
from ropevit.tasks.segment.model import SEGMENTER, build_segmenter, save_segmenter
from ropevit.weights import WeightsError
from tasks.segment.small import small_segmenter

#: How names of weights begin that belong to classes, and how many such weights there are.
NEW = {"upernet": (("head.classifier.", "auxiliary_head.classifier."), 4), "mask2former": (("classifier.",), 2)}


@pytest.fixture(params=list(NEW))
def saved(request, tmp_path):
    """Return a segmenter of three classes, every weight random, its options and its file."""
    config = small_segmenter(request.param)
    model = build_segmenter(config, 3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_()
    path = tmp_path / "first.safetensors"
    save_segmenter(path, model, config, list("abc"), {})
    return model, config, str(path)


def test_with_the_same_classes_all_weights_are_loaded(saved):
    (model, config, path), said = saved, []
    found = init_model(SEGMENTER, replace(config, init=path, drop_path=0.3), ("a", "b", "c"), said.append)
    torch.testing.assert_close(found.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert said == [f"loaded all weights of the segmenter {path}, which has the same 3 classes"]


@pytest.mark.parametrize("classes", [("a", "b", "c", "d", "e"), ("a", "c", "b")])
def test_with_other_classes_the_classification_layers_are_new_and_reported(saved, classes):
    (model, config, path), said = saved, []
    found = init_model(SEGMENTER, replace(config, init=path), classes, said.append)
    starts, count = NEW[config.head]
    before, after = model.state_dict(), found.state_dict()
    new = {name for name in after if name.startswith(starts)}
    assert len(new) == count
    assert all(torch.equal(after[name], before[name]) for name in set(after) - new)
    assert all(not torch.equal(after[name][:1], before[name][:1]) for name in new)
    assert all(len(after[name]) == len(classes) + (config.head == "mask2former") for name in new)
    assert said == [
        f"loaded the backbone and the head of the segmenter {path}; the classification layers are newly initialized, "
        f"as its 3 classes differ from the {len(classes)} of the data"
    ]


@pytest.mark.parametrize(("changes", "message"), [
    ({"position": "ape"}, "position: 'rope_mixed' instead of 'ape'"),
    ({"heads": 4}, "heads: 2 instead of 4"),
    ({"out_indices": (0, 1, 2, 3), "window": 7}, "window"),
])  # fmt: skip
def test_an_incompatible_segmenter_is_refused_with_the_options_that_differ(saved, changes, message):
    _, config, path = saved
    with pytest.raises(WeightsError, match=f"holds an incompatible segmenter \\(.*{message}.*; give its options"):
        init_model(SEGMENTER, replace(config, init=path, **changes), list("abc"))


def test_another_head_is_refused(saved):
    _, config, path = saved
    other = small_segmenter({"upernet": "mask2former", "mask2former": "upernet"}[config.head], init=path)
    with pytest.raises(WeightsError, match=r"holds an incompatible segmenter .*head: "):
        init_model(SEGMENTER, other, list("abc"))
