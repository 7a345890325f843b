"""Claims of README and docs: statistics checked by hand, and every number as a command prints it."""

import csv
import json
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import evidence
import evidence_drawings
import evidence_report
import isotropy
import pooled
import pytest
import tiles
import torch
from pooled import Arm, Training, by_seed, fraction_of_gain, interval, pair_row, paired

from ropevit.data.canvas import CanvasSettings
from ropevit.data.fashion import load_fashion
from ropevit.models.vit import ViT
from ropevit.study.panels import FieldPanel
from ropevit.study.panels.pixels import pixel_logits
from ropevit.study.settings import FASHION

ROOT = Path(__file__).parents[1]


def evidence_tables():
    results, drawings = evidence.read(), evidence.read(evidence_drawings.RESULTS)
    for lines in (*evidence_report.tables(results), evidence_drawings.drawings_table(results, drawings)):
        yield "docs/evidence.md", lines


#: Script -> function that yields the pages and lines of what it prints.
SCRIPTS = {
    "pooled": pooled.tables,
    "tiles": tiles.tables,
    "isotropy": isotropy.tables,
    "evidence": evidence_tables,
}


@cache
def tables(script):
    """Make the tables of a script: in the tests, as every worker imports this file."""
    return list(SCRIPTS[script]())


@cache
def printed_values():
    """Return every number that a script prints."""
    return {value for script in SCRIPTS for _, lines in tables(script) for value in decimals("\n".join(lines))}


def test_an_interval_is_the_mean_and_t_standard_errors():
    assert interval([1, 2, 3]) == pytest.approx((2, 4.303 / 3**0.5))  # standard deviation 1
    assert interval([4, 6]) == pytest.approx((5, 12.706))  # standard deviation 2^0.5, over 2^0.5
    assert interval([1, 2, 3, 4, 5, 6]) == pytest.approx((3.5, 2.571 * (3.5 / 6) ** 0.5))
    assert str(interval([-1, 0, 1])) == "+0.0 ± 2.5"


@pytest.mark.parametrize(("degrees", "quantile"), pooled.T_975.items())
def test_the_quantiles_leave_a_fortieth_above(degrees, quantile):
    """Integrate the density of Student's t from 0 by the midpoint rule."""
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / (degrees * math.pi) ** 0.5
    middle = (torch.arange(20000, dtype=torch.float64) + 0.5) * quantile / 20000
    density = scale * (1 + middle**2 / degrees) ** (-(degrees + 1) / 2)
    assert density.sum().item() * quantile / 20000 == pytest.approx(0.475, abs=2e-5)


@pytest.mark.parametrize("count", [0, 1, 12])
def test_an_interval_of_too_few_or_too_many_values_raises(count):
    with pytest.raises(ValueError, match=f"got {count} values; expected 2 to 11 for an interval"):
        interval([1.0] * count)


def test_differences_are_of_one_file_and_one_seed_and_counted_both_ways():
    scores = {Training("a", 0): 5.0, Training("a", 1): 7.0, Training("b", 0): 6.0, Training("b", 1): 6.0}
    others = {Training("b", 0): 4.0, Training("a", 0): 4.0, Training("a", 1): 3.0, Training("c", 1): 0.0}
    found = paired(scores, others)
    assert found == {Training("a", 0): 1.0, Training("a", 1): 4.0, Training("b", 0): 2.0}
    assert by_seed(found) == [1.5, 4.0]
    three = (7 / 3, 4.303 * (7 / 3) ** 0.5 / 3**0.5)  # variance of 1, 4 and 2: (16 + 25 + 1) / 9 / 2
    two = (2.75, 12.706 * 1.25)  # standard deviation 2.5 / 2^0.5
    said = ["+{:.1f} ± {:.1f}".format(*each) for each in (three, two)]
    assert pair_row(found, ["a", "b"]) == ["+1.0 +4.0", "+2.0", "3 of 3", *said]


def test_pooling_trainings_of_different_settings_raises(tmp_path):
    run = {"panel": "field", "embedding": "rope_axial", "seed": 0, "scores": {"32": 1.0}}
    for file, steps in zip(pooled.FILES["field"], (5, 6), strict=True):
        runs = [{**run, "settings": {"steps": steps, "test_sizes": [steps]}}]
        (tmp_path / file).write_text(json.dumps({"runs": runs}))
    with pytest.raises(ValueError, match=r"beyond_field\.json: rope_axial seed 0 was trained with other settings"):
        pooled.read_panel("field", tmp_path)


def test_both_files_are_pooled_by_seed():
    panel = pooled.read_panel("field")
    assert sorted(key.seed for key in panel[Arm("rope_mixed"), 64]) == [0, 0, 1, 1, 2, 2]
    assert {key.file for key in panel[Arm("ape"), 64]} == {"study_seeds3.json"}


def test_the_fraction_of_a_gain_by_hand():
    assert fraction_of_gain(10, 12, 14) == 50


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_tables_of_the_docs_are_as_printed(script):
    assert tables(script)
    assert [lines for page, lines in tables(script) if "\n".join(lines) not in (ROOT / page).read_text()] == []


RECORD = pooled.FASHION_PAGE
#: Page, the words that begin a section, and those that end it.
SECTIONS = [
    (RECORD, "## The study", "## The search"),
    (RECORD, "## Scaling methods and rope types", "These are small models"),
    ("docs/evidence.md", "## In short", "## How it was done"),
    ("docs/evidence.md", "in all three\ntasks. H4:", "## What other drawings"),
    ("docs/scaling.md", "All have the initial magnitudes theta", "`ropevit study --rope-types all`"),
    ("docs/scaling.md", "## What to take for large images", "\n## "),
    ("docs/choose.md", "## Our comparison", "## Detection and segmentation"),
    ("docs/choose.md", "- **Here**, small models", "## Scaling methods and other rope types"),
    ("README.md", "*Means of eight seeds", "## Two commands"),
]


def decimals(text):
    """Return the decimals of a text, except those in code, links, versions and names of papers."""
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|torch \S+|arXiv:\S+", "", text)
    return re.findall(r"(?<![\w.])\d+\.\d+(?![\w.]*\d)", text)


@pytest.mark.parametrize(("page", "start", "end"), SECTIONS)
def test_the_numbers_in_prose_are_printed_by_a_command(page, start, end):
    printed = printed_values()
    section = (ROOT / page).read_text().split(start, 1)[1].split(end)[0]
    said = decimals(section)
    assert said
    assert [value for value in said if value not in printed] == []


def test_the_numbers_of_measured_md_are_printed_by_a_command():
    rows = (ROOT / "docs/measured.md").read_text().splitlines()
    scripts = "pooled.py", "tiles.py", "isotropy.py", "evidence_report.py"
    claims = [row for row in rows if row.startswith("|") and any(script in row for script in scripts)]
    printed = printed_values()
    assert len(claims) >= len(scripts)
    for row in claims:
        claim, number, *_, spread = row.strip("|").split("|")
        assert [value for value in decimals(claim + number + spread) if value not in printed] == []


def test_frequencies_of_a_head_have_the_moments_by_hand():
    found = isotropy.moment(torch.tensor([[1.0, 0.0, 0.5], [0.0, 0.0, 0.5]]))
    # mean of f f^T: (1.25, 0.25; 0.25, 0.25) / 3; its eigenvalues are roots of x^2 - 1.5 x + 0.25, over 3
    assert (found.large, found.small) == pytest.approx(((0.75 + 0.3125**0.5) / 3, (0.75 - 0.3125**0.5) / 3))
    assert (found.x, found.y, found.slowest) == pytest.approx((1, 0.5, 0.5**0.5))


@pytest.mark.parametrize(("name", "ratio"), [("axial", 1), ("mixed", 1), ("simplex", 1), ("spiral", 4.08)])
def test_simplex_and_axial_frequencies_are_even_and_spiral_ones_are_not(name, ratio):
    frequencies = {kind: found for kind, _, found in isotropy.initial_frequencies(32)}[name]
    for head in frequencies.unbind(1):
        assert isotropy.moment(head).ratio == pytest.approx(ratio, abs=5e-3)
    if name == "spiral":
        assert isotropy.moment(frequencies[:, 0]).y < 0.41 < isotropy.moment(frequencies[:, 0]).x


@pytest.mark.parametrize(
    ("length", "side", "step", "expected"),
    [(32, 32, 32, [0]), (64, 32, 32, [0, 32]), (64, 32, 16, [0, 16, 32]), (72, 32, 32, [0, 32, 40])],
)
def test_windows_cover_an_image_to_its_end(length, side, step, expected):
    assert tiles.starts(length, side, step) == expected


def test_windows_are_compared_seed_by_seed_whatever_the_order_and_the_file():
    windows = {Training("tiles.csv", 0): 5.0, Training("tiles.csv", 1): 9.0}
    others = {Training("beyond.json", 1): 5.0, Training("beyond.json", 0): 3.0}  # differences 2 and 4
    assert tiles.over([windows, windows], [others]) == ["+3.0 ± 12.7"] * 2


def test_an_image_smaller_than_a_window_raises():
    with pytest.raises(ValueError, match="got an image of 28 pixels; expected at least the window, 32"):
        tiles.starts(28, 32, 32)


@pytest.fixture(scope="module")
def model():
    settings = replace(FASHION["field"], width=16, depth=1, canvas=CanvasSettings(item_size=20), test_canvases=2)
    images = load_fashion("val")
    panel = FieldPanel(settings, images, images)
    torch.manual_seed(0)
    return ViT(panel.model_config("rope_mixed")).eval()


def test_tiles_are_labeled_each_by_itself_and_windows_averaged(model):
    images = torch.randn(1, 1, 32, 64)
    with torch.no_grad():
        at = {left: pixel_logits(model, images[..., left : left + 32]).softmax(1) for left in (0, 16, 32)}
        torch.testing.assert_close(tiles.windowed(model, images, 1), torch.cat([at[0], at[32]], 3))
        torch.testing.assert_close(tiles.windowed(model, images, 2)[..., 16:32], at[0][..., 16:32] + at[16][..., :16])
        torch.testing.assert_close(tiles.windowed(model, images[..., :32], 1), at[0])


def test_the_models_cut_into_tiles_score_whole_as_those_of_the_second_run():
    runs = json.loads((ROOT / "benchmarks/results/beyond_field.json").read_text())["runs"]
    known = {(run["embedding"], str(run["seed"])): {"whole": run["scores"], **run["scaled"]} for run in runs}
    with tiles.RESULTS.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["way"].startswith("whole")]
    assert rows
    for row in rows:
        scores = known[row["embedding"], row["seed"]].get(row["way"].removeprefix("whole, "))
        if scores is not None:  # `log` alone was not among them
            assert float(row["mIoU"]) == pytest.approx(scores[row["size"]], abs=1e-3), row
