import pytest

from ropevit.models import published
from ropevit.models.published import DRAWN, SOURCE, TIMM, TIMM_SETS, TOP1, curve
from ropevit.models.registry import MODELS, PUBLISHED


def test_every_table_speaks_of_models_that_exist():
    for table in (TOP1, published.DRAWN_TOP1, published.COVERED_MARKERS, published.REMEASURED, published.FAR, TIMM):
        assert set(table) <= set(MODELS)
    assert set(TOP1) >= {name for name, hub in PUBLISHED.items() if hub.startswith("naver-ai/")}


@pytest.mark.parametrize("name", TOP1)
def test_a_curve_says_of_each_figure_whether_it_was_printed_or_read_off_a_drawing(name):
    figures = curve(name)
    assert list(figures) == sorted(figures)
    assert {size: figure.percent for size, figure in figures.items() if figure.source == SOURCE} == TOP1[name]
    assert {figure.source for figure in figures.values()} <= {SOURCE, DRAWN}
    wanted = MODELS[name].paper_sizes
    assert tuple(figures) == ((224, 384) if "_ape_" in name else wanted)


def test_hidden_markers_are_known_less_well():
    ape, axial = curve("deit_small_patch16_LS"), curve("rope_axial_deit_large_patch16_LS")
    assert [size for size, figure in ape.items() if figure.within == 0.1] == [144, 192]
    assert (axial[192].percent, axial[192].within) == (83.85, 0.1)
    assert curve("rope_mixed_deit_small_patch16_LS")[512] == published.PublishedResult(79.1, 0.05, DRAWN)


def test_curves_agree_with_others_measurements_as_far_as_they_claim():
    for name, measured in published.REMEASURED.items():
        for size, percent in measured.items():
            if size != 512:  # which the paper does not draw
                figure = curve(name)[size]
                assert abs(figure.percent - percent) <= figure.within + 0.001, (name, size)
    assert all(len(row) == len(TIMM_SETS) for row in TIMM.values())
    assert not curve("none_deit_small_patch16_LS")
