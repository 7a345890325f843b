import pytest
import torch

from ropevit.analysis import extrapolation
from ropevit.analysis.curves import Curve, Evaluations
from ropevit.analysis.extrapolation import published_curve
from ropevit.analysis.figure_model import FigureModel, FigureOptions
from ropevit.models.published import SOURCE, curve

SMALL = "rope_mixed_deit_small_patch16_LS"


def figure_model(name, published=True):
    return FigureModel(model=torch.nn.Identity(), label="mine", trained_size=(224, 224), name=name, published=published)


def test_rows_contain_own_and_published_scores():
    own = Curve(name="mine", position="rope_mixed", points={224: 80.0, 640: 60.0}, trained_at=224, paper=curve(SMALL))
    made = extrapolation.make(
        figure_model(None), FigureOptions(evaluations=Evaluations(curves=(own,), metric="top-1", title="top-1 on mine"))
    )
    rows = {row["size"]: row for row in made.rows}
    assert sorted(rows) == [144, 192, 224, 256, 320, 384, 512, 640]
    found = {
        size: (rows[size]["measured"], rows[size]["paper"], rows[size]["paper_source"]) for size in (224, 384, 640)
    }
    assert found == {224: (80.0, 80.9, SOURCE), 384: ("", 81.8, SOURCE), 640: (60.0, "", "")}
    assert made.figure.legends[0].get_title().get_text() == "top-1 on mine"


def test_a_published_model_without_evaluation_shows_the_papers_curve():
    made = extrapolation.make(figure_model(SMALL), FigureOptions())
    (legend,) = made.figure.legends
    assert legend.get_title().get_text() == "top-1, not evaluated here: the paper's results only"
    texts = [text.get_text() for text in legend.texts]
    assert texts[0] == f"RoPE-Mixed: {SMALL}"
    assert texts[1].startswith("the paper, on ImageNet-1k val")
    assert len(texts) == 2
    assert {row["measured"] for row in made.rows} == {""}
    assert {row["size"]: row["paper"] for row in made.rows} == {s: f.percent for s, f in curve(SMALL).items()}


@pytest.mark.parametrize(("name", "published"), [(None, True), ("deit_tiny_patch16_LS", True), (SMALL, False)])
def test_a_model_without_scores_raises(name, published):
    with pytest.raises(ValueError, match=r"got no scores, and the paper has none of these weights; .* --evals DIR"):
        extrapolation.make(figure_model(name, published), FigureOptions())


def test_a_model_that_the_paper_did_not_evaluate_raises():
    with pytest.raises(ValueError, match="the paper has no results of deit_tiny_patch16_LS"):
        published_curve("deit_tiny_patch16_LS")
