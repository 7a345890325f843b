"""`ropevit figures all`: the HTML page."""

import pytest

from ropevit.analysis.catalog import FIGURES
from ropevit.cli import main
from ropevit.cli.figures_page import describe_scaling
from ropevit.models import MODELS, ViT, ViTConfig
from ropevit.weights import save_model


@pytest.fixture
def write_page(tmp_path, capsys):
    def run(position, *options):
        model = ViT(ViTConfig(position=position, width=16, depth=2, heads=2, img_size=(48, 64), num_classes=3))
        weights = save_model(tmp_path / "my model.safetensors", model, classes=["a", "b", "c"])
        main(["figures", "all", "--checkpoint", str(weights), "--out", str(tmp_path / "out"), *options])
        return tmp_path / "out/figures.html", capsys.readouterr().out

    return run


@pytest.mark.usefixtures("rendered")
def test_the_page_has_all_figures_and_describes_the_model(write_page, open_page):
    path, printed = write_page("rope_mixed", "--sizes", "96")
    assert f"wrote {path}" in printed
    page = open_page(path)
    assert page.errors == []
    assert [url for url in page.asked if not url.startswith("data:")] == [page.url]
    facts = page.inner_text(".facts")
    for fact in (
        "rope_mixed, theta 10",
        "48 x 64 pixels, 3 x 4 patches",
        "2 layers of 2 heads",
        "my model.safetensors",
    ):
        assert fact in facts
    for name, analysis in FIGURES.items():
        section = page.locator(f"#analysis-{name}")
        assert section.locator("h2").inner_text() == analysis.title
        drawn = (path.parent / f"{name}.svg").exists()
        assert section.locator("img").count() == drawn
        assert drawn or section.locator(".note").inner_text()
    assert page.locator("#grid option").all_inner_texts() == ["3 × 4 (trained)", "6 × 6", "a custom size"]  # noqa: RUF001


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("rope_mixed_deit_small_patch16_LS", "none"),
        ("eva02_base_patch14_448", "none; positions are rescaled to 16 x 16"),
        ("vit_base_patch16_dinov3", "none; positions are normalized"),
    ],
)
def test_what_happens_to_positions_on_larger_grids_is_described(name, described):
    assert describe_scaling(MODELS[name]) == described


def test_the_page_explains_why_a_figure_is_missing(write_page):
    path, printed = write_page("ape")
    text = path.read_text(encoding="utf-8")
    assert "skipped frequencies" in printed
    assert "which this figure needs" in text
    assert "The explorer is omitted: no attention layer of the model has RoPE" in text


def test_sizes_that_patches_do_not_tile_are_refused_before_anything_is_drawn(write_page, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        write_page("rope_mixed", "--sizes", "97")
    assert stop.value.code == 2
    assert "97" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
