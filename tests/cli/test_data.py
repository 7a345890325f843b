import csv

import pytest
from PIL import Image

from ropevit.cli import main


def run(*arguments):
    """Run a command, and return its exit code."""
    try:
        main(["data", *map(str, arguments)])
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture
def images(tmp_path):
    for split in ("train", "val"):
        for label, name in enumerate(("ant", "bee")):
            for index in range(3):
                path = tmp_path / "my_images" / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (40, 40), (100 * label, 30 * index, 9 * (split == "val"))).save(path)
    return tmp_path / "my_images"


def test_a_data_set_without_problems_gives_exit_code_0(images, capsys):
    assert run("check", images) == 0
    assert "images: 6 of train, 6 of val; classes: 2\nno problems found" in capsys.readouterr().out


def test_problems_are_printed_and_written_with_exit_code_1(images, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for index in range(5):
        (images / "train/ant" / f"[bold]{index}.jpg").touch()
    out = tmp_path / "new" / "problems.csv"
    assert run("check", images, "--out", out) == 1
    printed = capsys.readouterr().out
    assert "download them again or remove them" in printed
    assert printed.count("[bold]") == 3, "the first examples"
    assert f"all findings are in {out}" in printed
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == 5
    file = f"{images}/train/ant/[bold]0.jpg"
    assert rows[0] == {"kind": "empty", "split": "train", "class": "ant", "file": file, "detail": "0 bytes"}


def test_harmless_findings_give_exit_code_0(images, capsys):
    Image.new("L", (40, 40), 77).save(images / "train/ant/gray.png")
    assert run("check", images) == 0
    printed = capsys.readouterr().out
    assert "converted" in printed
    assert "no problems found; what the table lists needs no change" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nowhere"], "found no folder nowhere"),
        (["check", "fashion"], "got fashion, which needs no check"),
        (["check", "train-{a..b}.tar"], "expected ranges of numbers"),
        (["show", "nowhere"], "found no folder nowhere"),
        (["show", "fashion", "--count", "101"], "count=101"),
        (["show", "fashion", "--out", "mine.jpg"], "got --out mine.jpg; expected a name that ends in .png"),
        (["speed", "nowhere"], "found no folder nowhere"),
        (["speed", "fashion", "--workers", "-1"], "workers=-1"),
        (["speed", "fashion", "--seconds", "0"], "seconds=0"),
    ],
)
def test_wrong_input_is_one_line_with_exit_code_2(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_existing_csv_file_is_never_overwritten(images, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("mine")
    assert run("check", images, "--out", tmp_path / "mine.csv") == 2
    assert "mine.csv exists; choose another --out" in capsys.readouterr().err
    assert (tmp_path / "mine.csv").read_text() == "mine"


def test_speed_prints_the_upper_limit_for_training(capsys):
    assert (
        run("speed", "fashion", "--size", "32", "--workers", "0", "--seconds", "0.1", "--auto-augment", "simple") == 0
    )
    printed = capsys.readouterr().out
    assert "one core: " in printed
    assert "images/s with 0 workers; the upper limit for training" in printed


@pytest.mark.parametrize("name", ["coco", "ade"])
def test_a_tiny_set_has_no_problems_until_one_is_added(name, tmp_path, capsys):
    made = tmp_path / name
    assert run("make-tiny", name, made) == 0
    assert run("check", made) == 0
    printed = capsys.readouterr().out
    assert f"wrote {made}\n" in printed
    assert "images: 12 of train, 6 of val; classes: " in printed
    next(iter(sorted(made.glob("annotations/**/*.*")))).write_bytes(b"{")
    assert run("check", made) == 1
    assert "annotations" in capsys.readouterr().out
    assert run("make-tiny", name, made) == 2
    assert "exists and is not empty; choose another folder" in capsys.readouterr().err


def test_names_that_look_like_formulas_are_written_as_text(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(images / "train")
    (images / "train" / "ant" / "0.png").rename(images / "train" / "=1+1.png")
    (images / "train" / "=cmd").mkdir()
    (images / "train" / "=cmd" / "0.png").touch()
    assert run("check", ".", "--out", tmp_path / "problems.csv") == 1
    (row,) = csv.DictReader((tmp_path / "problems.csv").read_text().splitlines())
    assert (row["class"], row["file"]) == ("'=cmd", "'=cmd/0.png")
    assert "not checked: 1 .png" in capsys.readouterr().out


def test_a_folder_of_results_is_refused(images, capsys):
    (images / "train" / "ant" / "metrics.jsonl").touch()
    assert run("check", images / "train") == 2
    assert "holds results, not data: found" in capsys.readouterr().err


def test_pictures_of_a_data_set_are_numbered_and_never_overwritten(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (images / "train/ant/0.png").write_text("no image")
    assert run("show", images) == run("show", images, "--count", "3") == 0
    printed = capsys.readouterr().out
    assert f"skipped {images}/train/ant/0.png: cannot identify image file" in printed
    assert f"5 images of {images} (train) are in data-train.png\n" in printed
    assert f"3 images of {images} (train) are in data-train-2.png\n" in printed
    with Image.open("data-train.png") as picture:
        assert picture.size > (600, 600)
    assert run("show", images, "--out", "data-train.png") == 2
    assert "data-train.png exists; choose another --out" in capsys.readouterr().err
