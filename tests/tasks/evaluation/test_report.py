"""The HTML report of an evaluation."""

import re
from dataclasses import replace

import pytest
from PIL import Image

from ropevit.painting import png_bytes
from ropevit.tasks.detect.evaluate import DetectorResult
from ropevit.tasks.evaluation.report import REPORT, EvalSummary, conclusions, write_eval_report
from ropevit.tasks.evaluation.results import ResultsDir
from tasks.evaluation.test_results import row, settings

SUMMARY = EvalSummary(
    name="mixed <1>", data="coco/val", description="float32", metric="AP", trained_at=64, missing=0,
    notes=("weights: best.safetensors",),
)  # fmt: skip
NAMES = {str(number): f"class {number}" for number in range(12)}


@pytest.fixture
def write(tmp_path):
    """Return a function that evaluates two sizes and returns the text of the report."""

    def run(summary=SUMMARY, pictures=()):
        results = ResultsDir(tmp_path / "out", settings(), NAMES, DetectorResult, resume=False)
        for size, score in ((32, 20.0), (64, 40.0)):
            results.add(row(size, AP=score), [score + number if number else float("nan") for number in range(12)])
        for name in pictures:
            results.write_bytes(name, png_bytes(Image.new("RGB", (600, 20))))
        write_eval_report(results, summary, png_bytes(Image.new("RGB", (1500, 600))))
        return tmp_path / "out" / REPORT

    return run


def cells(page, table):
    body = re.search(rf'<table id="{table}">(.*?)</table>', page, re.S).group(1)
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", line) for line in re.findall(r"<tr>(.*?)</tr>", body, re.S)]


def test_the_report_has_the_scores_and_the_lowest_classes(write):
    page = write().read_text()
    assert "mixed &lt;1&gt;" in page
    head, *rows = cells(page, "numbers")
    assert [line[head.index("AP")] for line in rows] == ["20.00", "40.00"]
    assert "skipped" not in head
    head, *rows = cells(page, "classes")
    assert head == ["class", "32", "64"]
    assert rows[0] == ["class 1", "21.00", "41.00"]  # class 0 has no score
    assert len(rows) == 10
    assert "1 more are in per_class.csv" in page
    assert "is not finished" not in page
    assert "weights: best.safetensors" in page


def test_the_report_shows_pictures_that_exist_and_says_what_is_missing(write):
    page = write(replace(SUMMARY, missing=1), pictures=["worst.png"]).read_text()
    assert "1 result is missing" in page
    assert "Images with the highest loss" in page
    assert "Confused classes" not in page
    assert "At 64 px" not in page, "a nearer size may be missing"


def test_the_report_says_the_size_of_its_pictures(write):
    assert "At 64 px. Rows: true class" in write(pictures=["confusion.png"]).read_text()


def test_conclusions_name_the_training_size_the_best_and_the_worst():
    rows = [row(32, AP=20.0, skipped=2), row(48, AP=35.5), row(96, AP=30.0)]
    assert conclusions(rows, SUMMARY) == [
        "AP at 48 px (trained at 64 px): 35.5 %, on 6 images.",
        "Highest: 35.5 % at 48 px. Lowest: 20.0 % at 32 px.",
        "2 images could not be read.",
    ]
    assert conclusions([row(64, AP=40.0)], SUMMARY) == ["AP at 64 px (its training size): 40.0 %, on 6 images."]
    assert conclusions([row(64)], replace(SUMMARY, metric="APm")) == ["No APm could be computed."]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_desk(write, open_page, width):
    page = open_page(write(pictures=["confusion.png"]))
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.errors == []
    assert [url for url in page.asked if not url.startswith("data:")] == [page.url]
    sizes = page.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
    assert len(sizes) == 2
    assert min(sizes) > 0
