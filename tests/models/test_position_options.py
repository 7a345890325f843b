"""Options behind the name of a position embedding: the base of the frequencies, and pairs that are not rotated."""

import pytest
import torch

from ropevit import load_model, save_model
from ropevit.models import build_model, get_config
from ropevit.models.architectures import build_backbone, dense_config
from ropevit.models.position_options import position_with_options, split_options
from ropevit.models.positions import position_label, position_style
from ropevit.models.rotary import set_scaling
from ropevit.rope import AxialRope, axial_frequencies, rotate

SMALL = {"width": 64, "depth": 2, "heads": 2, "num_classes": 5, "img_size": (32, 32)}


def small(position, **fields):
    torch.manual_seed(0)
    return build_model(get_config("deit_tiny", position=position, **SMALL | fields)).eval()


@pytest.mark.parametrize(("rest", "pairs"), [(0.125, (7, 7, 2)), (0.25, (6, 6, 4)), (0.75, (2, 2, 12))])
def test_pairs_at_rest_compare_content_at_every_offset(rest, pairs):
    """The score of the resting pairs is that without rotation; the other pairs have the whole range of frequencies."""
    config = get_config("deit_tiny", position=f"rope_axial:rest={rest}", **SMALL)
    assert (config.position, config.pairs) == ("rope_axial", pairs)
    rope = AxialRope(32, config.theta, 3, config.pairs_per_axis)
    resting = 2 * pairs[2]
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 7, 32)
    x, y = 10 * torch.randn(2, 7)
    rotated_q, rotated_k = rotate(q, k, torch.stack([x, y, torch.zeros(7)], 1), rope.frequencies())
    torch.testing.assert_close(rotated_q[..., -resting:], q[..., -resting:])
    torch.testing.assert_close(rotated_k[..., -resting:], k[..., -resting:])
    assert (rotated_q[..., :-resting] != q[..., :-resting]).float().mean() > 0.9
    wanted = axial_frequencies(32 - resting, config.theta)
    torch.testing.assert_close(rope.frequencies()[:2, : -pairs[2]], wanted)


@pytest.mark.parametrize(
    "position", ["rope_axial:rest=0.25", "rope_axial_ape:rest=0.25", "rope_axial_gaussian:rest=0.25"]
)
def test_a_model_with_pairs_at_rest_is_saved_and_loaded_and_takes_other_sizes(tmp_path, position):
    model, images = small(position), torch.randn(2, 3, 48, 32)
    plain = small(position.partition(":")[0])
    plain.load_state_dict(model.state_dict())
    assert not torch.equal(model(images), plain(images)), "the weights are the same, the rotation is not"
    save_model(tmp_path / "model.safetensors", model)
    loaded, _ = load_model(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    torch.testing.assert_close(loaded.eval()(images), model(images))
    before = model(images)
    set_scaling(model, "parts+log")
    assert not torch.equal(model(images), before)


def test_a_dense_backbone_takes_the_options_of_its_body():
    config = dense_config(get_config("deit_tiny", position="rope_axial:theta=10,rest=0.25", **SMALL))
    assert (config.body.rope_theta, config.body.pairs) == (10, (6, 6, 4))
    maps = build_backbone(config).eval()(torch.randn(1, 3, 48, 64)).features
    assert all(feature.isfinite().all() for feature in maps)


def test_labels_name_the_options_and_styles_differ():
    assert split_options("rope_axial:theta=10,rest=0.25") == ("rope_axial", {"theta": 10, "rest": 0.25})
    assert position_label("rope_axial:theta=10,rest=0.25") == "RoPE-Axial, theta 10, 0.25 unrotated"
    names = ("rope_axial", "rope_axial_ape", "rope_axial:theta=10", "rope_axial:rest=0.25", "rope_axial_gaussian")
    assert len({position_style(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("model", "position", "message"),
    [
        ("deit_tiny", "rope_axial:rest=0.3", "got rest=0.3 for heads of 16 pairs; .* one of 0.125, 0.25, 0.375"),
        ("deit_tiny", "rope_axial:rest=1", "got 'rest=1' behind 'rope_axial'; expected theta=NUMBER .above 0. or rest"),
        ("deit_tiny", "rope_axial:rest=0.25,rest=0.5", "got 'rest=0.5' behind 'rope_axial'"),
        ("deit_tiny", "rope_axial:rest", "got 'rest' behind 'rope_axial'"),
        ("deit_tiny", "rope_mixed:rest=0.25", "got rest=0.25 for rope_mixed of a ViT; expected rope_axial of a ViT"),
        ("deit_tiny", "ape:rest=0.25", "got rest=0.25 for ape of a ViT"),
        ("swin_tiny", "rope_axial:rest=0.25", "got rest=0.25 for rope_axial of a Swin"),
    ],
)
def test_options_that_do_not_fit_are_refused(model, position, message):
    fields = {"width": 64, "heads": 2} if model == "deit_tiny" else {}
    with pytest.raises(ValueError, match=message):
        get_config(model, position=position, **fields)


@pytest.mark.parametrize(
    "position",
    [
        "ape",
        "rope_mixed",
        "rope_axial",
        "rope_axial:theta=10",
        "rope_axial_ape:rest=0.25",
        "rope_axial:theta=10,rest=0.25",
    ],
)
def test_the_options_of_a_model_are_found_in_its_config(position):
    assert position_with_options(get_config("deit_tiny", position=position, **SMALL)) == position
