import pytest
import torch

from ropevit.tasks.detect.config import DinoConfig
from ropevit.tasks.detect.detrex import from_detrex, load_detrex, to_detrex
from ropevit.tasks.detect.dino import Dino
from ropevit.weights import WeightsError
from tasks.detect.golden import CASES, detector, weights
from tasks.detect.small import small_detector


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_detector_weights_have_the_names_of_detrex_and_no_others(case):
    model = detector(case)
    assert {key: list(value.shape) for key, value in to_detrex(model.state_dict()).items()} == case["layout"]


def test_published_detector_has_these_shapes():
    with torch.device("meta"):
        theirs = to_detrex(Dino(DinoConfig(levels=5), (192, 384, 768, 1536)).state_dict())
    shapes = {
        "label_enc.weight": (80, 256),
        "class_embed.6.weight": (80, 256),
        "bbox_embed.6.layers.2.weight": (4, 256),
        "transformer.level_embeds": (5, 256),
        "transformer.tgt_embed.weight": (900, 256),
        "transformer.decoder.ref_point_head.layers.0.weight": (256, 512),
        "neck.convs.3.conv.weight": (256, 1536, 1, 1),
        "neck.extra_convs.0.conv.weight": (256, 1536, 3, 3),
        "transformer.decoder.layers.5.attentions.0.attn.in_proj_weight": (768, 256),
        "transformer.decoder.layers.5.attentions.1.sampling_offsets.weight": (8 * 5 * 4 * 2, 256),
    }
    assert {key: tuple(theirs[key].shape) for key in shapes} == shapes
    assert not any(key.startswith(("class_embed.7", "bbox_embed.7", "neck.extra_convs.1")) for key in theirs)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_conversion_and_back_is_bit_exact(case):
    theirs = weights(case)
    ours = from_detrex(theirs)
    assert len(ours) == len(Dino(detector(case).config, case["channels"]).state_dict())
    back = to_detrex(ours)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)


def test_query_key_and_value_projections_are_split_in_order():
    theirs = to_detrex(small_detector().state_dict())
    ours = from_detrex(theirs)
    whole = theirs["transformer.decoder.layers.1.attentions.0.attn.in_proj_weight"]
    for number, name in enumerate(["q_proj", "k_proj", "v_proj"]):
        part = ours[f"decoder.layers.1.self_attn.{name}.weight"]
        torch.testing.assert_close(part, whole[32 * number : 32 * (number + 1)], rtol=0, atol=0)


def test_tied_head_weights_may_be_missing_but_not_differ():
    model, theirs = small_detector(), to_detrex(small_detector().state_dict())
    first = {key: value for key, value in theirs.items() if not key.startswith("transformer.decoder.class_embed")}
    load_detrex(model, first)
    assert torch.equal(model.class_heads[2].weight, theirs["class_embed.2.weight"])
    theirs["class_embed.2.bias"] = theirs["class_embed.2.bias"] + 1
    with pytest.raises(
        WeightsError, match=r"class_embed\.2\.bias and transformer\.decoder\.class_embed\.2\.bias differ"
    ):
        load_detrex(model, theirs)


@pytest.mark.parametrize(("change", "message"), [
    (lambda state: state.pop("label_enc.weight"), "missing: label_embedding.weight"),
    (lambda state: state.update({"backbone.x": torch.zeros(1)}), r"got an entry 'backbone\.x'; expected"),
    (lambda state: state.update({"neck.convs.9.conv.bias": torch.zeros(1)}), "not in the model: neck.convs.9"),
    (lambda state: state.update({"label_enc.weight": torch.zeros(3, 32)}), r"another shape: label_embedding.weight"),
    (
        lambda state: state.update({"transformer.decoder.layers.0.attentions.0.attn.in_proj_bias": torch.zeros(4)}),
        "has 4 rows; expected queries, keys and values in equal parts",
    ),
])  # fmt: skip
def test_incompatible_weights_are_refused_and_the_model_is_unchanged(change, message):
    model, state = small_detector(), to_detrex(small_detector().state_dict())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    change(state)
    with pytest.raises(WeightsError, match=message):
        load_detrex(model, state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_weights_of_another_model_are_refused():
    with pytest.raises(WeightsError, match=r"got an entry 'blocks\.0\.x'; expected weights of this detector only"):
        to_detrex({"blocks.0.x": torch.zeros(1)})
    state = small_detector().state_dict()
    del state["decoder.layers.0.self_attn.k_proj.bias"]
    with pytest.raises(WeightsError, match=r"without decoder\.layers\.0\.self_attn\.k_proj\.bias"):
        to_detrex(state)
