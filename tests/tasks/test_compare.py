from dataclasses import replace

import pytest

from ropevit.data.imagenet import imagenet_classes
from ropevit.models.published import curve
from ropevit.tasks import compare
from ropevit.tasks.classify.evaluate import ClassifierResult
from ropevit.tasks.compare import read_evaluations
from ropevit.tasks.detect.evaluate import DetectorResult
from ropevit.tasks.evaluation.results import ResultsDir
from ropevit.tasks.registry import TASKS, task_of_result

SMALL = "rope_mixed_deit_small_patch16_LS"
IMAGENET = dict(zip(map(str, range(1000)), imagenet_classes(), strict=True))


@pytest.fixture
def write(tmp_path):
    """Return a function that writes an evaluation of a published model."""

    def write(folder="mixed", model=SMALL, names=IMAGENET, scores=((224, 80.0), (384, 70.0)), task=None, **config):
        fixed = {"metric": "top-1", "data": "imagenet/val", "fingerprint": folder, "images": 50_000, "real": None}
        settings = {
            "task": task,
            "config": fixed | {"protocol": "paper", "crop": None} | config,
            "model": {"name": folder, "model": model, "position": "rope_mixed", "trained_at": 224},
        }
        results = ResultsDir(tmp_path / folder, settings, names, ClassifierResult, resume=False)
        rest = {"images": 50_000, "skipped": 0, "images_per_second": 9.0, "peak_memory_gib": 1.0}
        for size, score in scores:
            row = ClassifierResult(size=size, top1=score, top5=90.0, window=None, resize=size, crop=1.0, **rest)
            results.add(row, [50.0] * len(names))
        return tmp_path / folder

    return write


def test_evaluations_are_read_with_the_papers_figures_of_their_models(write):
    found = read_evaluations([write(), write("own", model=None)])
    assert (found.metric, found.title) == ("top-1", "top-1 on imagenet/val")
    published, own = found.curves
    assert (published.name, published.points, published.trained_at) == ("mixed", {224: 80.0, 384: 70.0}, 224)
    assert published.paper == curve(SMALL)
    assert (own.name, own.points, own.paper) == ("own", published.points, {})


@pytest.mark.parametrize(
    "changes",
    [
        *({"protocol": "timm"}, {"crop": 0.9}, {"real": "real.json"}, {"scaling": "ntk"}),
        *({"names": {"0": "cat", "1": "dog"}}, {"model": "deit_tiny_patch16_LS"}),
    ],
)
def test_what_the_paper_did_not_measure_so_stands_alone(write, changes):
    (alone,) = read_evaluations([write(**changes)]).curves
    assert not alone.paper


def test_the_task_is_that_of_the_file_where_others_have_the_same_metric(write, monkeypatch):
    mine = replace(TASKS["segment"], metric=TASKS["classify"].metric)
    monkeypatch.setattr(compare, "TASKS", {"segment": mine, "classify": TASKS["classify"]})
    (curve_of_file,) = read_evaluations([write(task="classify")]).curves
    assert curve_of_file.points == {224: 80.0, 384: 70.0}


def test_evaluations_name_their_task():
    assert [task_of_result(row) for row in (ClassifierResult, DetectorResult, int)] == ["classify", "detect", None]


def test_evaluations_that_do_not_fit_are_refused(write, tmp_path):
    first = write()
    with pytest.raises(ValueError, match=r"other has data='fashion/test', the first one 'imagenet/val'; .* --evals"):
        read_evaluations([first, write("other", data="fashion/test")])
    with pytest.raises(ValueError, match=r"found no evaluation in .*nowhere .no eval.json.; leave it out of --evals"):
        read_evaluations([first, tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="old does not name its metric, so an older version wrote it; evaluate again"):
        read_evaluations([write("old", metric=None)])
