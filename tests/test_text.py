import pytest

from ropevit.text import csv_cell, format_speed, printable, suggest


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("\x1b]52;c;cHduZWQ=\x07", r"\x1b]52;c;cHduZWQ=\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("evil\u202egnp.exe", r"evil\u202egnp.exe"),
        ("two\nlines", r"two\nlines"),
        ("lone \udcff", r"lone \udcff"),
        ("naïve 猫 🐈", "naïve 猫 🐈"),
    ],
)
def test_control_characters_are_escaped_and_other_text_stays(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("speed", "shown"), [(12345.4, "12,345"), (10, "10"), (9.96, "10"), (3.0, "3"), (1.26, "1.3"), (0.04, "0.04")]
)
def test_a_slow_speed_is_not_zero(speed, shown):
    assert format_speed(speed) == shown


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "=\x1b"])
def test_a_cell_is_never_a_formula(text):
    assert csv_cell(text) == "'" + printable(text)


@pytest.mark.parametrize("value", [-1.5, 3, None, "cat", ""])
def test_other_cells_stay_as_they_are(value):
    assert csv_cell(value) == value


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fashon", "did you mean fashion?"),
        ("upernet", "did you mean segment/upernet_base or segment/upernet_small?"),
        ("segment", "did you mean segment/upernet_base, segment/upernet_small or segment/other?"),
        ("x", "see the list"),
        ("", "see the list"),
    ],
)
def test_names_that_contain_a_wrong_one_or_are_spelled_alike_are_suggested(name, hint):
    known = ["fashion", "segment/upernet_base", "segment/upernet_small", "segment/other", "segment/x"]
    assert suggest(name, known, "see the list") == hint
