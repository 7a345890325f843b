from dataclasses import replace

import pytest

from ropevit.analysis.curves import Curve, Evaluations, draw_curves, styles, ticks
from ropevit.drawing import figure_bytes
from ropevit.models.positions import position_style
from ropevit.models.published import curve as published


def made(name, position, trained_at=800):
    return Curve(name=name, position=position, points={480: 40.0, 800: 50.0, 1333: 45.0}, trained_at=trained_at)


def test_every_position_embedding_has_a_color_and_a_repeated_one_another():
    found = list(styles(["rope_mixed", "ape", "rope_mixed", "mine", "rope_axial"]))
    assert [found[index] for index in (0, 1, 4)] == [
        position_style(name) for name in ("rope_mixed", "ape", "rope_axial")
    ]
    assert len({color for color, _ in found}) == 5
    assert len(set(styles(["rope_mixed"] * 20))) == 20


@pytest.mark.usefixtures("rendered")
def test_the_legend_names_embedding_and_model():
    curves = [made("detector", "rope_mixed"), made("old", "ape", 640), made("new", "mine")]
    figure = draw_curves(Evaluations(curves=tuple(curves), metric="AP", title="AP on coco/val"))
    (axes,) = figure.axes
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.texts] == ["RoPE-Mixed: detector", "absolute (APE): old", "mine: new"]
    assert legend.get_title().get_text() == "AP on coco/val"
    assert axes.get_ylabel() == "AP (%)"
    assert [line.get_color() for line in axes.lines if len(line.get_xdata()) == 3][:2] == ["#009E73", "#D55E00"]
    assert {line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1} == {640, 800}
    assert figure_bytes(figure, "png").startswith(b"\x89PNG")


def test_baselines_are_dashed_in_the_color_of_their_model_and_meet_it_at_the_training_size():
    baselines = {"in tiles of 800 px": {1333: 49.0}, "resized to 800 px": {480: 39.0, 1333: 50.0}}
    curves = replace(made("detector", "rope_mixed"), baselines=baselines), made("old", "ape")
    figure = draw_curves(Evaluations(curves=curves, metric="AP", title=""))
    (axes,), (legend,) = figure.axes, figure.legends
    labels = [text.get_text() for text in legend.texts]
    assert labels == ["RoPE-Mixed: detector", "absolute (APE): old", "in tiles of 800 px", "resized to 800 px"]
    drawn = {tuple(line.get_xdata()): line for line in axes.lines if list(line.get_ydata())[-1:] in ([49.0], [50.0])}
    tiles, resized = drawn[800, 1333], drawn[480, 800, 1333]
    assert (list(tiles.get_ydata()), list(resized.get_ydata())) == ([50.0, 49.0], [39.0, 50.0, 50.0])
    assert {tiles.get_color(), resized.get_color()} == {"#009E73"}
    assert "-" not in {tiles.get_linestyle(), resized.get_linestyle()}


def test_the_papers_curves_are_dashed_in_the_color_of_their_model():
    names = {"ape": "deit_small_patch16_LS", "rope_mixed": "rope_mixed_deit_small_patch16_LS"}
    curves = [replace(made("small", position, 224), paper=published(name)) for position, name in names.items()]
    figure = draw_curves(Evaluations(curves=(*curves, made("mine", "none", 224)), metric="top-1", title=""))
    texts = [text.get_text() for text in figure.legends[0].texts]
    assert [text.split(",")[0] for text in texts] == [
        *("absolute (APE): small", "RoPE-Mixed: small", "no position embedding: mine", "the paper"),
    ]
    (axes,) = figure.axes
    drawn = [container.lines[0] for container in axes.containers]
    assert [line.get_color() for line in drawn] == [position_style(position)[0] for position in names]
    for line, name in zip(drawn, names.values(), strict=True):
        assert dict(line.get_xydata()) == {size: figure.percent for size, figure in published(name).items()}


@pytest.mark.parametrize(
    ("sizes", "named"),
    [((480, 640, 800, 1024, 1333), [480, 640, 800, 1024, 1333]), ((38, 40, 51, 128), [38, 51, 128]), ((32,), [32])],
)
def test_ticks_too_close_to_another_are_omitted(sizes, named):
    assert ticks(sizes) == named
