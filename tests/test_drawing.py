import errno
import warnings

import pytest
from matplotlib.figure import Figure

from ropevit import files
from ropevit.drawing import legend_label, save_figure

pytestmark = pytest.mark.usefixtures("rendered")


def figure_of(name):
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([1, 10], [1e-9, 2e-9], label=legend_label(name))
    axes.set_xscale("log")
    axes.set_title(name)
    axes.legend()
    return figure


@pytest.mark.parametrize("name", ["costs $5 or $6", "$x^", r"a\$b", "$" * 3])
def test_dollars_in_a_name_are_text(name, tmp_path):
    _, svg = save_figure(figure_of(name), tmp_path / "figure")
    assert svg.read_text().count(f">{name}</text>") == 2  # title and legend
    assert ">1" in svg.read_text()  # powers of ten at the ticks are drawn as such
    assert "$</text>" not in svg.read_text().replace(f"{name}</text>", "")


def test_control_characters_and_a_leading_underscore_are_shown(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of letters that are missing
        _, svg = save_figure(figure_of("_a\x1b[2J"), tmp_path / "figure")
    assert svg.read_text().count(r"_a\x1b[2J</text>") == 2


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    class Full(files.WatchedFile):
        def write(self, content):
            self.file.write(content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "WatchedFile", Full)
    with pytest.raises(ValueError, match=r"cannot write .*figure\.png: No space left on device"):
        save_figure(figure_of("a"), tmp_path / "figure")
    assert list(tmp_path.iterdir()) == []
