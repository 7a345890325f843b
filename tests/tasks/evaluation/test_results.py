import json

import pytest
import torch

from ropevit.tasks.detect.evaluate import DetectorResult
from ropevit.tasks.evaluation.config import read_ratios
from ropevit.tasks.evaluation.loop import read_curve
from ropevit.tasks.evaluation.results import ResultsDir, hash_weights, parse_row


def row(size=64, **changes):
    scores = dict.fromkeys(("AP", "AP50", "AP75", "AR1", "AR10", "AR100", "APs", "ARs"), 40.0)
    rest = {"images": 6, "skipped": 0, "images_per_second": 2.5, "peak_memory_gib": 0.5}
    return DetectorResult(
        **{"size": size, "longest": 80, "APm": None, "APl": None, "ARm": None, "ARl": None} | scores | rest | changes
    )


def settings(name="ape", position="ape", **fixed):
    config = {"metric": "AP", "data": "coco/val", "fingerprint": name, "images": 6, "annotations": "1f", "flip": False}
    return {"config": config | fixed, "model": {"name": name, "position": position, "trained_at": 64}}


@pytest.fixture
def other(tmp_path):
    """Return a function that writes another evaluation."""

    def write(rows=((32, 30.0), (64, 40.0)), **changes):
        results = ResultsDir(tmp_path / "other", settings(**changes), {"1": "disc"}, DetectorResult, resume=False)
        for size, score in rows:
            results.add(row(size, AP=score), [float("nan")])
        return tmp_path / "other"

    return write


def read(folder, **changes):
    return read_curve(folder, DetectorResult, settings("mixed", "rope_mixed", **changes))


def test_curve_is_read_with_its_position_embedding(other):
    curve = read(other())
    assert (curve.points, curve.position, curve.trained_at) == ({32: 30.0, 64: 40.0}, "ape", 64)
    assert curve.label == "absolute (APE): ape"


def test_other_settings_appear_in_the_legend(other):
    assert read(other(flip=True), precision="float32").label == "absolute (APE): ape, flip True, precision None"


@pytest.mark.parametrize(
    "changes", [{"metric": "mIoU"}, {"data": "coco/train"}, {"images": 7}, {"annotations": "2f"}, {"real": "real.json"}]
)
def test_evaluations_with_another_metric_or_other_data_are_refused(other, changes):
    ((key, value),) = changes.items()
    with pytest.raises(
        ValueError, match=f"other has {key}=.*, this evaluation '?{value}'?; only evaluations with the same"
    ):
        read(other(), **changes)


def test_directory_without_an_evaluation_is_refused(other, tmp_path):
    with pytest.raises(ValueError, match=r"found no evaluation in .* .no eval.json.; leave it out of --compare-with"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no results yet; leave it out of --compare-with"):
        read(other(rows=()))
    (tmp_path / "other" / "eval.csv").write_text("size,top1\n64,80.0\n")
    with pytest.raises(ValueError, match="is not a table of such an evaluation"):
        read(tmp_path / "other")
    (tmp_path / "other" / "eval.json").write_text(json.dumps({"config": {"metric": "AP"}}))
    with pytest.raises(ValueError, match="found no evaluation"):
        read(tmp_path / "other")


def test_row_is_read_back_unchanged(other):
    written = row(32, AP=30.0)
    folder = other(rows=((32, 30.0),))
    names, values = ((folder / "eval.csv").read_text().splitlines()[line].split(",") for line in (0, 1))
    assert parse_row(dict(zip(names, values, strict=True)), DetectorResult, folder) == written
    assert (folder / "per_class.csv").read_text() == "class,name,32\n1,disc,\n"


def test_a_column_may_have_its_name_of_an_older_version(other):
    folder = other(rows=((32, 30.0),))
    names, values = ((folder / "eval.csv").read_text().splitlines()[line].split(",") for line in (0, 1))
    line = dict(zip(names, values, strict=True))
    older = {"way" if name == "mode" else name: "tiles" if name == "mode" else text for name, text in line.items()}
    assert parse_row(older, DetectorResult, folder).mode == "tiles"


def test_ratios_are_read_with_commas_or_spaces():
    assert read_ratios(["0.5,0.75", "1.0,", "2"]) == (0.5, 0.75, 1.0, 2.0)
    for word in ("half", "-1", "nan", "1.2.3"):
        with pytest.raises(ValueError, match=f"got ratio '{word}'"):
            read_ratios([word])


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("model.trained_at", "64", r"model\.trained_at is '64'"),
        ("model.trained_at", 0, r"model\.trained_at is 0, expected pixels"),
        ("model.trained_at", 10**400, r"model\.trained_at is 1000"),
        ("model.name", ["a"], r"model\.name is"),
        ("model.position", None, r"model\.position is 'None'"),
        ("config.metric", ["AP"], r"config\.metric is"),
        ("model", [], "no model"),
    ],
)
def test_settings_of_wrong_types_give_a_one_line_error(place, value, reason, other):
    folder = other()
    content = json.loads((folder / "eval.json").read_text())
    part, _, name = place.partition(".")
    if name:
        content[part][name] = value
    else:
        content[part] = value
    (folder / "eval.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"found no evaluation in .*other \(eval\.json: {reason}.*leave it out of"):
        read(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "is not readable JSON"),
    ],
    ids=["deep", "no text"],
)
def test_invalid_json_settings_give_a_one_line_error(content, reason, other):
    folder = other()
    (folder / "eval.json").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read(folder)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("64,", "0,", "a size of 0 pixels"),
        ("64,", ",", "no size"),
        ("64,", f"{10**30},", "a size of 1000"),
        ("64,", "\x00,", "eval.csv"),
    ],
)
def test_invalid_table_values_give_a_one_line_error(old, new, reason, other):
    path = other() / "eval.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=reason):
        read(path.parent)


def test_class_name_that_looks_like_a_formula_is_stored_as_text(tmp_path):
    names = {"=1+1": "=1+1", "b": "@b"}
    for resume in (False, True):
        results = ResultsDir(tmp_path / "own", settings(), names, DetectorResult, resume=resume)
        results.add(row(64 if resume else 32), [10.0, 20.0])
    lines = (tmp_path / "own" / "per_class.csv").read_text().splitlines()
    assert lines == ["class,name,32,64", "'=1+1,'=1+1,10.00,10.00", "b,'@b,20.00,20.00"]


class Elsewhere(torch.Tensor):
    """Stands for a tensor on a GPU, which NumPy cannot read."""

    def numpy(self):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_digest_of_weights_does_not_depend_on_the_device():
    state = {"weight": torch.arange(6.0).view(2, 3).t(), "scale": torch.tensor(2.0, dtype=torch.bfloat16)}
    there = {name: value.as_subclass(Elsewhere) for name, value in state.items()}
    assert hash_weights(there) == hash_weights(state)
    assert hash_weights(there | {"scale": torch.tensor(3.0)}) != hash_weights(state)
