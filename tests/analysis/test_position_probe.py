import pytest
import torch

from ropevit.analysis.figure_model import FigureModel, FigureOptions
from ropevit.analysis.layers import NothingToDrawError
from ropevit.analysis.position_probe import make, position_by_layer, position_r2


def images(count=6, height=64, width=96):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_features_that_hold_the_position_tell_all_of_it():
    x, y = torch.meshgrid(torch.arange(7.0), torch.arange(5.0), indexing="xy")
    maps = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    nothing = position_r2(maps)
    assert max(nothing) < 0.1
    only_x = position_r2(torch.cat([maps, x.expand(4, 1, 5, 7)], 1))
    assert only_x[0] > 0.99
    assert only_x[1] < 0.1
    assert min(position_r2(torch.cat([maps, torch.stack([3 * x - y, x + y]).expand(4, 2, 5, 7)], 1))) > 0.99


def test_an_image_does_not_tell_the_positions_of_another():
    maps = torch.randn(4, 200, 6, 6, generator=torch.Generator().manual_seed(0))  # more features than patches
    assert max(position_r2(maps)) < 0.1
    with pytest.raises(NothingToDrawError, match="got one image; this figure holds images out"):
        position_r2(maps[:1])


def test_an_absolute_embedding_is_told_and_no_embedding_is_not(vit):
    torch.manual_seed(0)
    found = {position: position_by_layer(vit(position), images()) for position in ("ape", "none")}
    with torch.no_grad():
        strong = vit("ape")
        strong.pos_embed.normal_(std=5.0)
    told = position_by_layer(strong, images())
    assert [(each.layer, each.grid, each.size) for each in found["none"]] == [(n, (8, 12), (64, 96)) for n in range(3)]
    assert max(found["none"][0].x, found["none"][0].y) < 0.1
    assert min(told[0].x, told[0].y) > 0.6


def test_the_figure_has_a_row_for_each_layer_and_size(swin):
    figure_model = FigureModel(model=swin(), label="x", trained_size=(32, 32), images=images(3, 64, 64))
    made = make(figure_model, FigureOptions(sizes=(64,)))
    assert [(row["height"], row["layer"], row["grid"]) for row in made.rows] == [
        (32, 0, "8 x 8"), (32, 1, "8 x 8"), (32, 2, "4 x 4"), (64, 0, "16 x 16"), (64, 1, "16 x 16"), (64, 2, "8 x 8"),
    ]  # fmt: skip
    (axes,) = made.figure.axes
    assert len(axes.lines) == 4
    with pytest.raises(NothingToDrawError, match="got no images to draw this figure from"):
        make(FigureModel(model=swin(), label="x", trained_size=(32, 32)), FigureOptions())
