import csv
import io

import numpy as np
import pytest
from PIL import Image

from ropevit.tasks.evaluation.confusion import (
    MOST_CLASSES,
    PICTURE,
    TABLE,
    confusion_files,
    draw_matrix,
    most_confused,
    row_shares,
)

PETS = {"n1": "ant", "n2": "bee", "n3": "cat"}
#: Four ants, one of which is taken for a bee and one for a cat; two bees, both right; no cat.
FOUND = {(0, 0): 2, (0, 1): 1, (0, 2): 1, (1, 1): 2}


def test_the_table_has_a_row_for_each_pair_that_occurs():
    files = confusion_files(FOUND, PETS, "pets", "images")
    rows = list(csv.DictReader(io.StringIO(files[TABLE].decode())))
    assert [(row["true"], row["predicted"], row["images"], row["percent"]) for row in rows] == [
        ("n1", "n1", "2", "50.00"),
        ("n1", "n2", "1", "25.00"),
        ("n1", "n3", "1", "25.00"),
        ("n2", "n2", "2", "100.00"),
    ]
    assert (rows[1]["true_name"], rows[1]["predicted_name"]) == ("ant", "bee")


def test_shares_are_percent_of_the_true_class_with_what_is_not_drawn_in_the_last_column():
    np.testing.assert_array_equal(row_shares(FOUND, [0, 1]), [[50, 25, 25], [0, 100, 0]])
    np.testing.assert_array_equal(row_shares(FOUND, [0, 1, 2])[:2, :3], [[50, 25, 25], [0, 100, 0]])
    assert np.isnan(row_shares(FOUND, [2])).all(), "there are no cats"


def test_of_many_classes_those_of_the_most_frequent_confusions_are_drawn():
    count = 3 * MOST_CLASSES
    found = {(label, label): 1000 for label in range(count)} | {(70, 3): 9, (5, 60): 8}
    chosen = most_confused(found, count)
    assert chosen == sorted(chosen)
    assert len(chosen) == MOST_CLASSES
    assert {70, 3, 5, 60} <= set(chosen)
    assert most_confused(found, MOST_CLASSES) == list(range(MOST_CLASSES))


@pytest.mark.parametrize("percent", [0, 40, 100])
def test_a_cell_is_the_darker_the_more_it_holds(percent):
    numbers = np.full((1, 2), 0.0)
    numbers[0, 1] = percent
    picture = np.asarray(draw_matrix(numbers, ["ant"], ["ant", "bee"], ["title"])).astype(int)
    row = picture[-20, :]  # in the cells, below their numbers
    expected = [round(255 + percent / 100 * (full - 255)) for full in (0, 114, 178)]
    assert (row == expected).all(-1).any()
    assert row.min() >= min(expected[0], 225), "nothing is darker, except the outline"


def test_rows_of_classes_that_do_not_occur_are_left_out_and_names_are_cut():
    def height(classes, found):
        with Image.open(io.BytesIO(confusion_files(found, classes, "pets", "images")[PICTURE])) as picture:
            return picture.size

    assert height(PETS, FOUND)[1] < height(PETS, FOUND | {(2, 2): 1})[1]
    long = {"n1": "a" * 500, "n2": "\x1b[31mbee", "n3": "cat"}
    assert height(long, FOUND)[0] == 640, "no wider than the title"
