import pytest
from matplotlib.figure import Figure

from ropevit.analysis.catalog import (
    FIGURES,
    FigureModel,
    FigureOptions,
    FigureResult,
    FigureSpec,
    find_figures,
    register_figure,
    try_figure,
)
from ropevit.analysis.layers import NothingToDrawError
from ropevit.cli.figures import FiguresConfig
from ropevit.models import ViT, ViTConfig

SUBJECT = FigureModel(
    model=ViT(ViTConfig(position="none", width=16, depth=1, heads=1, img_size=(32, 32))),
    label="x",
    trained_size=(32, 32),
)


@pytest.fixture
def catalog():
    before = dict(FIGURES)
    yield FIGURES
    FIGURES.clear()
    FIGURES.update(before)


@pytest.mark.usefixtures("catalog")
def test_a_registered_figure_is_found_and_made():
    made = FigureResult(Figure(), [{"label": "x"}])
    register_figure(
        FigureSpec(
            "mine", "Mine", "A text.", lambda figure_model, _: made._replace(rows=[{"label": figure_model.label}])
        )
    )
    (mine,) = find_figures("mine")
    assert find_figures("all")[-1] is mine
    assert try_figure(mine, SUBJECT, FigureOptions()).result == made


@pytest.mark.usefixtures("catalog")
def test_a_figure_that_does_not_apply_returns_its_reason():
    def refuse(*_):
        raise NothingToDrawError("nothing\n rotates")

    register_figure(FigureSpec("mine", "Mine", "A text.", refuse))
    outcome = try_figure(FIGURES["mine"], SUBJECT, FigureOptions())
    assert (outcome.result, outcome.note) == (None, "nothing rotates")


@pytest.mark.usefixtures("catalog")
def test_a_registered_figure_reads_the_options_that_its_row_names():
    register_figure(FigureSpec("mine", "Mine", "A text.", lambda *_: None, options=("sizes", "images")))
    config = FiguresConfig(name="mine", model="deit_tiny", sizes=(448,), images="photos")
    assert config.options().sizes == (448,)
    with pytest.raises(ValueError, match="got --points for mine; it is for reconstruction, all: omit it"):
        FiguresConfig(name="mine", model="deit_tiny", points="1,1")
    with pytest.raises(
        ValueError, match="it is for response, phases, distance, entropy, position_probe, extrapolation, mine, all"
    ):
        FiguresConfig(name="reconstruction", model="deit_tiny", sizes=(448,))
    with pytest.raises(ValueError, match="got option 'size' of figure other; choose among points, sizes, images"):
        register_figure(FigureSpec("other", "Other", "A text.", lambda *_: None, options=("size",)))
    assert "other" not in FIGURES


@pytest.mark.parametrize(
    ("name", "message"), [("phases", "exists already"), ("My figure", "lower-case"), ("all", "not 'all'")]
)
def test_invalid_figure_names_raise(name, message):
    with pytest.raises(ValueError, match=message):
        register_figure(FigureSpec(name, "", "", lambda *_: FigureResult(None, [])))
