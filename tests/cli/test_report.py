"""The report in a real browser; skipped where no Chromium is installed."""

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
    assert min(sizes) > 0, "every picture is inside the page"
    assert "has the highest mean" in page.inner_text("#conclusion")


def test_the_reader_picks_the_size_at_which_pictures_are_shown(page):
    for panel in ("field", "zoom"):
        sheets = page.locator(f".sheet[data-panel={panel}]:visible")
        assert sheets.count() == 1
        assert sheets.get_attribute("data-size") == "24"
        page.select_option(f"select[data-panel={panel}]", "8")
        assert sheets.count() == 1
        assert sheets.get_attribute("data-size") == "8"
    assert page.errors == []


def test_the_page_fits_a_narrow_screen(page):
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
