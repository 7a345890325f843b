import json

import pytest

from ropevit.tasks.common.eval_config import read_ratios
from ropevit.tasks.common.evaluation import read_curve
from ropevit.tasks.common.measured import Results, parse_row
from ropevit.tasks.detect.evaluate import Row


def row(size=64, **changes):
    scores = dict.fromkeys(("AP", "AP50", "AP75", "AR1", "AR10", "AR100", "APs", "ARs"), 40.0)
    rest = {"images": 6, "skipped": 0, "images_per_second": 2.5, "peak_memory_gib": 0.5}
    return Row(
        **{"size": size, "longest": 80, "APm": None, "APl": None, "ARm": None, "ARl": None} | scores | rest | changes
    )


def settings(name="ape", position="ape", **fixed):
    config = {"metric": "AP", "data": "coco/val", "fingerprint": name, "images": 6, "annotations": "1f", "flip": False}
    return {"config": config | fixed, "model": {"name": name, "position": position, "trained_at": 64}}


@pytest.fixture
def other(tmp_path):
    """Give a function that writes another evaluation."""

    def write(rows=((32, 30.0), (64, 40.0)), **changes):
        results = Results(tmp_path / "other", settings(**changes), {"1": "disc"}, Row, resume=False)
        for size, score in rows:
            results.add(row(size, AP=score), [float("nan")])
        return tmp_path / "other"

    return write


def read(folder, **changes):
    return read_curve(folder, Row, settings("mixed", "rope_mixed", **changes))


def test_a_curve_is_read_with_its_embedding(other):
    curve = read(other())
    assert (curve.points, curve.position, curve.trained_at) == ({32: 30.0, 64: 40.0}, "ape", 64)
    assert curve.label == "absolute (APE): ape"


def test_what_else_was_done_otherwise_stands_in_the_legend(other):
    assert read(other(flip=True), precision="float32").label == "absolute (APE): ape, flip True, precision None"


@pytest.mark.parametrize(
    "changes", [{"metric": "mIoU"}, {"data": "coco/train"}, {"images": 7}, {"annotations": "2f"}, {"real": "real.json"}]
)
def test_only_the_same_measure_on_the_same_data_stands_beside(other, changes):
    ((key, value),) = changes.items()
    with pytest.raises(ValueError, match=f"other says {key}: .*, this evaluation '?{value}'?; only the same"):
        read(other(), **changes)


def test_a_directory_without_an_evaluation_is_refused(other, tmp_path):
    with pytest.raises(ValueError, match=r"found no evaluation in .* .no eval.json.; leave it out of --beside"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has not measured anything yet; leave it out of --beside"):
        read(other(rows=()))
    (tmp_path / "other" / "eval.csv").write_text("size,top1\n64,80.0\n")
    with pytest.raises(ValueError, match="is not the table that such an evaluation writes"):
        read(tmp_path / "other")
    (tmp_path / "other" / "eval.json").write_text(json.dumps({"config": {"metric": "AP"}}))
    with pytest.raises(ValueError, match="found no evaluation"):
        read(tmp_path / "other")


def test_a_row_is_read_as_it_was_written(other):
    written = row(32, AP=30.0)
    folder = other(rows=((32, 30.0),))
    names, values = ((folder / "eval.csv").read_text().splitlines()[line].split(",") for line in (0, 1))
    assert parse_row(dict(zip(names, values, strict=True)), Row, folder) == written
    assert (folder / "per_class.csv").read_text() == "class,name,32\n1,disc,\n"


def test_ratios_are_read_with_commas_or_spaces():
    assert read_ratios(["0.5,0.75", "1.0,", "2"]) == (0.5, 0.75, 1.0, 2.0)
    for word in ("half", "-1", "nan", "1.2.3"):
        with pytest.raises(ValueError, match=f"got ratio '{word}'"):
            read_ratios([word])
