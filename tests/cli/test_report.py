"""The report of a study in a browser; skipped unless Chromium is installed."""

import pytest


@pytest.fixture
def page(finished, open_page):
    return open_page(finished / "report.html")


def test_the_report_renders_without_errors_or_requests(page):
    assert page.title().startswith("Which position embedding?")
    assert page.errors == []
    assert [url for url in page.asked if not url.startswith("data:")] == [page.url]
    sizes = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(sizes) > 20
    assert min(sizes) > 0, "every image has loaded"
    assert "zoom: at the training size" in page.inner_text("#conclusion")


def test_example_images_are_shown_at_the_selected_size(page):
    for panel in ("field", "zoom"):
        sheets = page.locator(f".sheet[data-panel={panel}]:visible")
        assert sheets.count() == 1
        assert sheets.get_attribute("data-size") == "24"
        page.select_option(f"select[data-panel={panel}]", "8")
        assert sheets.count() == 1
        assert sheets.get_attribute("data-size") == "8"
    assert page.errors == []


def test_the_page_fits_a_narrow_screen(page):
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tops = [box["y"] for box in (image.bounding_box() for image in page.query_selector_all("#curves img"))]
    assert len(set(tops)) == len(tops) == 2, "one panel stands below the other"
    boxes = page.eval_on_selector_all(
        ".wide", "all => all.map(box => [box.scrollWidth > box.clientWidth + 1, box.classList.contains('scrolls')])"
    )
    assert any(wide for wide, _ in boxes)
    assert all(wide == told for wide, told in boxes), "what goes on to the right says so"
