"""Numbers worked out by hand: uniform and one-hot attention on small grids."""

from dataclasses import replace
from math import log, sqrt

import numpy as np
import pytest
import torch

from ropevit.analysis import distance, entropy
from ropevit.analysis.attention import attention_stats, model_at_size, query_stats, resize_all
from ropevit.analysis.figure_model import FigureModel, FigureOptions
from ropevit.models import Swin, SwinConfig, ViT, ViTConfig
from ropevit.rope import ROPE_FAMILIES

#: Mean over all ordered pairs of patches of a 2 x 3 grid: of the unordered ones 7 stand 1 apart, 2 stand 2, 4 stand
#: sqrt(2), 2 stand sqrt(5), and each patch stands 0 from itself.
UNIFORM_2X3 = 2 * (7 + 2 * 2 + 4 * sqrt(2) + 2 * sqrt(5)) / 36
#: The same in a window of 2 x 2.
UNIFORM_2X2 = (0 + 1 + 1 + sqrt(2)) / 4


def blind(model):
    """Make all queries 0, so that every token that is seen is seen alike."""
    for module in model.modules():
        if hasattr(module, "qkv"):
            torch.nn.init.zeros_(module.qkv.weight)
    return model


def vit(**fields):
    return ViT(
        ViTConfig(**{"position": "rope_axial", "width": 32, "depth": 2, "heads": 2, "img_size": (64, 64)} | fields)
    )


def swin(**fields):
    small = {"position": "rope_axial", "width": 16, "depths": (2,), "heads": (2,), "patch_size": 4}
    return Swin(SwinConfig(**small | {"img_size": (16, 16), "window_size": 2} | fields))


def alike(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("registers", [0, 2])
def test_uniform_attention_on_2_x_3_patches(registers):
    found = attention_stats(blind(vit(num_registers=registers)), [torch.randn(3, 3, 32, 48)])
    tokens = 6 + 1 + registers
    assert [layer.name for layer in found.layers] == ["blocks.0.attn", "blocks.1.attn"]
    for layer in found.layers:
        assert (layer.grid, layer.stride, layer.images, layer.queries) == ((2, 3), 16, 3, 18)
        for value, uniform, expected in (
            (layer.distance, layer.uniform_distance, UNIFORM_2X3),
            (layer.entropy, layer.uniform_entropy, log(tokens)),
            (layer.prefix_share, (1 + registers) / tokens, (1 + registers) / tokens),
        ):
            alike(value, [expected, expected])
            alike(uniform, expected)
        alike(layer.diagonal, sqrt(13))
        alike(layer.relative_entropy, [1, 1])


@pytest.mark.parametrize("family", ["dinov3", "eva02", "pe"])
def test_distances_are_in_patches_where_a_family_rescales_positions(family):
    model = blind(vit(rope_convention=ROPE_FAMILIES[family].convention))
    (layer, _) = attention_stats(model, [torch.randn(3, 3, 32, 48)]).layers
    assert layer.grid == (2, 3)
    alike(layer.distance, [UNIFORM_2X3] * 2)


def test_attention_to_one_patch():
    scores = torch.full((1, 1, 2, 6), -1e4)
    scores[..., 0, 5] = scores[..., 1, 0] = 0
    places = torch.tensor([[0.0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]])
    found = query_stats(scores, torch.cdist(places[:2], places))
    alike(found[:, 0, 0], [[sqrt(5), 1], [0, 0], [0, 0]])


def test_attention_on_prefix_tokens_is_excluded_from_distances_only():
    scores = torch.full((1, 1, 1, 4), -1e4)
    scores[..., 0] = scores[..., 2] = 0  # half to the class token, half to the second patch
    found = query_stats(scores, torch.tensor([[0.0, 3.0, 5.0]]), prefix=1).flatten()
    alike(found, [3, log(2), 0.5])


def test_shifted_windows_do_not_attend_across_the_wrapped_border():
    straight, shifted = attention_stats(blind(swin()), [torch.randn(2, 3, 16, 16)]).layers
    alike(straight.distance, [UNIFORM_2X2] * 2)
    alike(straight.entropy, [log(4)] * 2)
    # shifted by 1, the window in the middle is whole, the 4 at the sides hold twice 2 tokens, that at the corners 4
    # single ones
    alike(shifted.distance, [(4 * UNIFORM_2X2 + 8 * 0.5 + 4 * 0) / 16] * 2)
    alike(shifted.entropy, [(4 * log(4) + 8 * log(2) + 4 * 0) / 16] * 2)
    for layer in (straight, shifted):
        assert (layer.queries, layer.grid, layer.stride, layer.windowed) == (32, (2, 2), 4, True)
        alike([layer.uniform_distance, layer.uniform_entropy], [layer.distance[0], layer.entropy[0]])


def test_window_padding_has_no_queries_and_no_keys():
    straight, _ = attention_stats(blind(swin()), [torch.randn(2, 3, 12, 12)]).layers  # 3 x 3 tokens
    assert straight.queries == 18
    alike(straight.distance, [(4 * UNIFORM_2X2 + 4 * 0.5 + 0) / 9] * 2)
    alike(straight.entropy, [(4 * log(4) + 4 * log(2) + 0) / 9] * 2)


def test_every_stage_has_its_stride():
    model = swin(depths=(1, 1), heads=(2, 2), window_size=8)
    found = attention_stats(model, [torch.randn(1, 3, 24, 32)]).layers
    assert [(layer.stride, layer.grid, layer.queries) for layer in found] == [(4, (6, 8), 48), (8, (3, 4), 12)]


def test_statistics_of_a_query_subset_approximate_those_of_all(monkeypatch):
    model, images = vit(), torch.randn(2, 3, 64, 64)
    every, some, same, other = (
        attention_stats(model, [images], queries=queries, seed=seed).layers[0]
        for queries, seed in ((16, 0), (4, 0), (4, 0), (4, 1))
    )
    assert (every.queries, some.queries) == (32, 8)
    assert some.distance.tolist() == same.distance.tolist() != other.distance.tolist()
    assert abs(some.uniform_distance - every.uniform_distance) < 0.5
    monkeypatch.setattr("ropevit.analysis.capture.MAX_SCORES", 1)  # a row at a time
    alike(attention_stats(model, [images]).layers[0].entropy, every.entropy)


def test_the_model_keeps_its_modes_and_wrong_input_raises():
    model = vit().train()
    model.blocks[1].eval()  # frozen
    before = [module.training for module in model.modules()]
    attention_stats(model, [torch.randn(1, 3, 32, 32)])
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ValueError, match=r"got images of \[\(32, 32\), \(32, 32\)\] pixels"):
        attention_stats(model, [torch.randn(1, 3, 32, 32)] * 2)
    with pytest.raises(ValueError, match="at least one batch"):
        attention_stats(model, [])
    with pytest.raises(ValueError, match="got queries=0"):
        attention_stats(model, [torch.randn(1, 3, 32, 32)], queries=0)
    with pytest.raises(ValueError, match="got Linear; expected a classifier, such as a ViT or Swin"):
        attention_stats(torch.nn.Linear(2, 2), [torch.randn(1, 3, 32, 32)])


def test_the_windows_of_a_swin_grow_with_the_image():
    model = swin(position="rope_axial_rpb")
    assert model_at_size(model, 16, 16) is model
    assert model_at_size(vit(), 128, 64).config.img_size == (64, 64)
    larger = model_at_size(model, 40, 16)
    assert (larger.config.window_size, larger.config.trained_grid) == (5, (2, 2))
    assert torch.equal(larger.layers[0].blocks[1].attn.qkv.weight, model.layers[0].blocks[1].attn.qkv.weight)


def test_all_figures_use_the_same_windows():
    small = figure_model(swin(), 16)  # windows of 2 tokens at 16 pixels, not the paper's 1/32
    for size in (12, 16, 40):
        side = model_at_size(small.model, size, 16).config.window_size
        assert small.grid_at(size) == (side, side)
    assert FigureModel(model=swin(window_size=7), label="", trained_size=(224, 224)).grid_at(384) == (12, 12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_in_half_precision_are_supported(dtype):
    for model, size in ((vit(position="rope_mixed", scaling="yarn"), 64), (swin(position="rope_axial_rpb"), 16)):
        half = figure_model(model.to(dtype), size)
        half = replace(half, images=half.images.to(dtype))
        assert {row["height"] for row in distance.make(half, FigureOptions()).rows} == {size, 2 * size}


def figure_model(model, size, images=2):
    return FigureModel(
        model=model, label="mine", trained_size=(size, size), images=torch.randn(images, 3, 2 * size, 2 * size)
    )


def test_figures_have_a_panel_per_size_and_a_comparison():
    for module in (distance, entropy):
        made = module.make(figure_model(vit(), 64), FigureOptions(sizes=(96, 128)))
        titles = [axes.get_title() for axes in made.figure.axes]
        assert titles == ["64 x 64 pixels", "96 x 96 pixels", "128 x 128 pixels", "mean of heads at all sizes"]
        assert made.figure.get_suptitle() == f"{module.TITLE} of mine"
        assert "16 at 64 x 64, 36 at 96 x 96, 64 at 128 x 128" in made.figure.get_supxlabel().replace("\n", " ")
        assert len(made.rows) == 3 * 2 * 2
        heads = [line for line in made.figure.axes[1].lines if line.get_linestyle() == "None"]
        key = {distance: "distance_patches", entropy: "entropy_nats"}[module]
        drawn = [value for line in heads for value in line.get_ydata()]
        assert drawn == [row[key] for row in made.rows if row["height"] == 96]


def test_rows_give_distances_in_patches_pixels_and_relative_to_the_diagonal():
    made = distance.make(figure_model(swin(depths=(1, 1), heads=(2, 2), window_size=4), 16), FigureOptions())
    assert {row["height"] for row in made.rows} == {16, 32}
    for row in made.rows:
        alike(row["distance_pixels"], row["distance_patches"] * {"layers.0": 4, "layers.1": 8}[row["layer"][:8]])
        alike(row["distance_of_diagonal"], row["distance_patches"] / np.hypot(row["grid_rows"], row["grid_columns"]))
    made = entropy.make(figure_model(vit(), 64), FigureOptions(sizes=(64,)))
    for row in made.rows:
        alike(row["effective_tokens"], np.exp(row["entropy_nats"]))
        alike(row["entropy_of_uniform"], row["entropy_nats"] / log(17))


def test_models_trained_on_wide_images_are_analyzed_in_that_aspect_ratio():
    wide = replace(figure_model(vit(img_size=(32, 64)), 64), trained_size=(32, 64))
    for options, sizes in (
        (FigureOptions(), {(32, 64), (64, 128)}),
        (FigureOptions(sizes=(64,)), {(32, 64), (64, 64)}),
    ):
        assert {(row["height"], row["width"]) for row in distance.make(wide, options).rows} == sizes


def test_images_of_another_aspect_ratio_are_cropped():
    images = torch.zeros(1, 1, 8, 8)
    images[..., 2:6, :] = 1
    assert (resize_all(images, [(4, 8)])[0] == 1).all()
    assert (resize_all(images, [(2, 4)])[0] > 0.99).all()


def test_a_grid_of_one_patch_is_drawn():
    made = distance.make(figure_model(vit(img_size=(16, 16)), 16), FigureOptions(sizes=(16,)))
    assert {row["distance_patches"] for row in made.rows} == {0}
    assert [axes.get_ylim()[0] < axes.get_ylim()[1] for axes in made.figure.axes] == [True, True]


def test_attention_figures_without_images_raise():
    without = FigureModel(model=vit(), label="mine", trained_size=(64, 64))
    with pytest.raises(ValueError, match="got no images to draw this figure from"):
        distance.make(without, FigureOptions())


def test_images_are_resized_once_per_size():
    images = torch.rand(1, 3, 32, 32)
    small, same = resize_all(images, [16, (32, 32)])
    assert small.shape == (1, 3, 16, 16)
    assert same is images
