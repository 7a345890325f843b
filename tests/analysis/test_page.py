"""The page of figures in a browser; skipped unless Chromium is installed."""

import base64
import math

import numpy as np
import pytest
import torch
from matplotlib import colormaps

from ropevit.analysis.explorer import explorer
from ropevit.analysis.layers import rotated_layers
from ropevit.analysis.page import Section, render
from ropevit.analysis.response import response_map
from ropevit.rope import grid_positions
from ropevit.rope.scaling import parse_scaling

GRID = (5, 7)
MINUS = "\N{MINUS SIGN}"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="60" height="30"><rect width="60" height="30"/></svg>'
SECTIONS = [
    Section("frequencies", "Frequencies of every head", "One dot a pair.\n\nAnother paragraph.", SVG),
    Section("distance", "Attention distance", "How far heads look.", note="give --images"),
]


def write(model, folder, *, title="A model", facts=(("Model", "tiny"),), sections=SECTIONS, grids=()):
    path = folder / "figures.html"
    path.write_text(render(title, facts, sections, explorer(model, grids)), encoding="utf-8")
    return path


@pytest.fixture
def mixed(vit):
    """A model with different heads, some of whose pairs are beyond the aliasing limit."""
    model = vit(img_size=(40, 56))
    with torch.no_grad():
        for block in model.blocks:
            block.attn.rope.freqs.mul_(1 + torch.randn_like(block.attn.rope.freqs))
            block.attn.rope.freqs[0, :, 0] = 4.0
    return model


@pytest.fixture
def page(mixed, tmp_path, open_page):
    return open_page(write(mixed, tmp_path))


def python_response(frequencies, dx, dy):
    """Return the response of each head, as computed for the figures."""
    return response_map(frequencies.double().numpy(), np.array([[[float(dx)]], [[float(dy)]]]))[:, 0, 0]


def screenshot(page):
    return page.evaluate("document.getElementById('map').toDataURL()")


def over(page, column, row):
    """Return the position of a patch on the screen."""
    page.locator("#map").scroll_into_view_if_needed()
    box = page.locator("#map").bounding_box()
    rows, columns = page.evaluate("[explorer.state.rows, explorer.state.columns]")
    return box["x"] + (column + 0.5) * box["width"] / columns, box["y"] + (row + 0.5) * box["height"] / rows


def test_the_page_renders_without_errors_or_requests(page):
    assert page.title() == "A model"
    assert page.errors == []
    assert [url for url in page.asked if not url.startswith("data:")] == [page.url]
    assert page.eval_on_selector_all("img", "all => all.map(image => image.naturalWidth)") == [60]
    assert "give --images" in page.inner_text("#analysis-distance")
    assert page.locator("#analysis-frequencies p").count() == 2
    links = page.eval_on_selector_all("nav a", "all => all.map(a => a.getAttribute('href'))")
    assert links == ["#rotation", "#explore", "#analysis-frequencies", "#analysis-distance"]
    assert all(page.locator(link).count() == 1 for link in links)


def test_every_control_changes_the_map(page):
    seen = [screenshot(page)]

    def changed():
        assert screenshot(page) not in seen
        seen.append(screenshot(page))

    page.select_option("#layer", "1")
    changed()
    page.select_option("#head", "1")
    changed()
    page.check("input[name=pairs][value=layer]")
    changed()
    page.mouse.click(*over(page, 1, 2))
    changed()
    page.select_option("#grid", "2")
    changed()
    page.select_option("#scaling", "2")
    changed()
    assert page.errors == []


@pytest.mark.parametrize("position", ["rope_axial", "rope_mixed"])
@pytest.mark.parametrize(("grid", "method"), [(0, "none"), (1, "ntk"), (2, "parts"), (2, "pi")])
def test_the_page_computes_the_same_responses_as_python(position, grid, method, mixed, vit, tmp_path, open_page):
    model = mixed if position == "rope_mixed" else vit(position, img_size=(40, 56))
    grids = [(10, 14), (9, 28)]
    page = open_page(write(model, tmp_path, grids=grids))
    page.select_option("#grid", str(grid))
    page.select_option("#scaling", label=method + " (as trained)" * (method == "none"))
    for index, (_, frequencies) in enumerate(rotated_layers(model)):
        if method != "none":
            positions = grid_positions(*([GRID, *grids][grid]))
            frequencies = parse_scaling(method, GRID)(positions, frequencies).frequencies
        offsets = [(0, 0), (1, 0), (0, 1), (3, -2), (-6, 4), (27, 8)]
        wanted = np.stack([python_response(frequencies, dx, dy) for dx, dy in offsets], 1)
        for head, own in [("0", wanted[0]), ("1", wanted[1]), ("null", wanted.mean(0))]:
            found = page.evaluate(f"all => all.map(([dx, dy]) => explorer.response({index}, {head}, dx, dy))", offsets)
            assert found == pytest.approx(own, abs=1e-4)


def test_pointing_at_a_patch_shows_its_offset_and_response(page, mixed):
    page.mouse.click(*over(page, 2, 1))
    page.mouse.move(*over(page, 5, 3))
    value = python_response(rotated_layers(mixed)[0].frequencies, 3, 2)[0]
    assert page.inner_text("#query") == "column 2, row 1, counted from 0"
    assert page.inner_text("#reading") == f"r = {value:.3f} at (dx, dy) = (+3, +2)".replace("-", MINUS)


def test_the_color_of_a_patch_matches_its_response(mixed, tmp_path, open_page):
    with torch.no_grad():
        freqs = mixed.blocks[0].attn.rope.freqs
        freqs[0], freqs[1] = 0.8, 0.35
    page = open_page(write(mixed, tmp_path))
    page.mouse.click(*over(page, 1, 3))
    spots = [(x, y) for y in range(GRID[0]) for x in range(GRID[1])]
    read = """spots => spots.map(([x, y]) => { const map = document.getElementById('map'), s = explorer.state;
        const at = [(x + .2) * map.width / s.columns, (y + .2) * map.height / s.rows];
        return [...map.getContext('2d').getImageData(...at, 1, 1).data].slice(0, 3); })"""
    responses = [python_response(rotated_layers(mixed)[0].frequencies, x - 1, y - 3)[0] for x, y in spots]
    assert min(responses) < -0.9, "both ends of the scale are looked at"
    wanted = 255 * colormaps["RdBu_r"](0.5 + 0.5 * np.array(responses))[:, :3]
    np.testing.assert_allclose(page.evaluate(read, spots), wanted, atol=4)


def test_arrow_keys_move_the_query_and_the_marker_within_the_grid(page):
    page.focus("#map")
    assert page.inner_text("#query") == "column 3, row 2, counted from 0"
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert page.inner_text("#query") == "column 5, row 3, counted from 0"
    for _ in range(9):
        page.keyboard.press("ArrowUp")
    assert page.inner_text("#query") == "column 5, row 0, counted from 0"
    page.keyboard.press("Shift+ArrowLeft")
    assert f"({MINUS}1, 0)" in page.inner_text("#reading")
    assert page.inner_text("#query") == "column 5, row 0, counted from 0"


def test_clicks_can_move_the_marker_instead(page):
    page.check("input[name=moves][value=reading]")
    page.mouse.click(*over(page, 6, 0))
    assert page.inner_text("#query") == "column 3, row 2, counted from 0"
    assert f"(+3, {MINUS}2)" in page.inner_text("#reading")


def test_offsets_not_seen_in_training_are_marked(page):
    assert page.inner_text("#seen") == "all offsets of this grid"
    page.select_option("#grid", "1")
    assert page.inner_text("#seen").startswith("|dx| ≤ 6, |dy| ≤ 4")
    page.mouse.click(*over(page, 0, 0))
    page.mouse.move(*over(page, 6, 4))
    assert "never" not in page.inner_text("#reading")
    page.mouse.move(*over(page, 6, 5))
    assert "never seen in training" in page.inner_text("#reading")


def test_the_highest_other_peak_is_found(mixed, tmp_path, open_page):
    with torch.no_grad():
        freqs = mixed.blocks[0].attn.rope.freqs
        freqs[0], freqs[1] = math.pi * 2 / 3, 0.1
    page = open_page(write(mixed, tmp_path))
    assert page.inner_text("#rival") == f"r = 1.000 at (dx, dy) = ({MINUS}3, 0)"
    page.mouse.click(*over(page, 6, 2))
    assert page.inner_text("#rival") == f"r = 1.000 at (dx, dy) = ({MINUS}3, 0)", "the nearest of two equal peaks"
    with torch.no_grad():
        freqs.fill_(0.1)
    page = open_page(write(mixed, tmp_path))
    assert "none" not in page.inner_text("#rival"), "all patches on the line x + y = 0 have r = 1"
    with torch.no_grad():
        freqs[0, :, ::2], freqs[1, :, ::2] = 0.2, -0.1
    page = open_page(write(mixed, tmp_path))
    assert page.inner_text("#rival").startswith("none")


def test_a_custom_grid_has_no_scaling_and_rejects_invalid_sizes(page):
    assert not page.is_visible("#rows")
    page.select_option("#grid", "free")
    assert page.is_disabled("#scaling")
    page.fill("#rows", "3")
    page.fill("#columns", "20")
    page.keyboard.press("Enter")
    assert page.evaluate("[explorer.state.rows, explorer.state.columns]") == [3, 20]
    page.fill("#rows", "0")
    page.keyboard.press("Enter")
    assert page.evaluate("[explorer.state.rows, explorer.state.columns]") == [3, 20]
    page.select_option("#grid", "0")
    assert page.is_enabled("#scaling")
    assert page.errors == []


def test_dots_beyond_the_aliasing_limit_are_marked(page):
    assert page.locator("#pairs-plot .pair").count() == 8
    assert page.locator("#pairs-plot .beyond").count() >= 1
    assert f"{page.locator('#pairs-plot .beyond').count()} beyond" in page.inner_text("#pairs-text")
    page.check("input[name=pairs][value=layer]")
    assert page.locator("#pairs-plot .pair").count() == 16


def test_an_axial_head_of_the_same_size_can_be_compared(page, vit, tmp_path, open_page):
    assert not page.is_visible("#axial")
    page.check("#compare")
    assert page.is_visible("#axial")
    assert page.errors == []
    page = open_page(write(vit("rope_axial"), tmp_path))
    assert page.locator("#compare").count() == 0
    assert "All heads of all layers have the same frequencies" in page.inner_text("#about")
    assert page.errors == []


def test_the_grids_of_a_swin_are_its_windows(swin, tmp_path, open_page):
    page = open_page(write(swin(), tmp_path))
    assert page.inner_text("#layer option:checked") == "stage 0 block 0"
    assert page.inner_text("#grid option:checked") == "4 \N{MULTIPLICATION SIGN} 4 (trained)"
    assert "windows" in page.inner_text("#about")
    page.select_option("#layer", "1")
    assert page.locator("#head option").count() == 4
    assert page.errors == []


def test_a_model_without_rope_has_no_explorer(vit, tmp_path, open_page):
    with pytest.raises(ValueError, match="no attention layer of the model has RoPE"):
        explorer(vit("ape"))
    path = tmp_path / "figures.html"
    path.write_text(render("A model", [], SECTIONS, "nothing <i>rotates</i>"), encoding="utf-8")
    page = open_page(path)
    assert page.inner_text("#no-explorer") == "The explorer is omitted: nothing <i>rotates</i>"
    assert page.locator("#explore, canvas").count() == 0
    assert page.errors == []


def test_names_are_escaped_in_the_page(mixed, tmp_path, open_page):
    evil = "</script><script>document.title='broken in'</script><b>"
    layer = evil.replace(".", "")
    mixed.add_module(layer, mixed.blocks[0])
    svg = SVG.replace("<rect", "<script>top.document.title='broken in'</script><rect")
    path = write(mixed, tmp_path, title=evil, facts=[(evil, evil)], sections=[Section("x", evil, evil, svg, evil)])
    page = open_page(path)
    assert page.title() == page.inner_text("h1") == evil
    assert page.inner_text(".facts dd") == evil
    assert page.locator("b:text-is('')").count() == 0
    assert layer in page.inner_text("#layer option:last-child")
    assert page.errors == []


def test_the_page_fits_a_narrow_screen(page):
    page.set_viewport_size({"width": 360, "height": 700})
    page.check("#compare")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_page_has_a_dark_mode(page):
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light


def test_every_control_has_a_label(page):
    nameless = """all => all.filter(control => !control.labels?.length && !control.ariaLabel).length"""
    assert page.eval_on_selector_all("select, input, canvas", nameless) == 0


def test_shared_frequencies_are_stored_once(vit):
    data = explorer(vit("rope_axial"))
    assert len(data.frequencies) == 1 + 3 * 2, "without scaling, then each method on each larger grid"
    assert [len(head) for head in data.frequencies[0]] == [1, 1]
    assert data.tables[0] == [[0, 0]] * 3
    assert data.tables[1][0] == [0, 0], "scaling has no effect on the trained grid"
    assert data.axial is None


def test_the_scaling_of_a_model_is_listed_and_selected(vit, tmp_path, open_page):
    model = vit("rope_mixed", scaling="parts(slow=0.25)+log")
    data = explorer(model)
    assert data.scalings == ["none", "pi", "ntk", "parts", "parts(slow=0.25)+log"]
    assert data.scaling == 4
    page = open_page(write(model, tmp_path))
    assert page.inner_text("#scaling option:checked") == "parts(slow=0.25)+log (the model's)"


def test_figures_are_data_uris():
    text = render("A model", [], SECTIONS, "nothing rotates")
    assert f"data:image/svg+xml;base64,{base64.b64encode(SVG.encode()).decode()}" in text
