import contextlib
import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ropevit.data.coco import open_coco
from ropevit.tasks.classify.evaluate import ClassifierOptions
from ropevit.tasks.dense.evaluation import check_metadata, default_sizes
from ropevit.tasks.detect import evaluate as module
from ropevit.tasks.detect.augment import ScaleConfig
from ropevit.tasks.detect.evaluate import DetectorOptions
from ropevit.tasks.detect.inference import DetectorSettings, run_detector
from ropevit.tasks.detect.model import load_detector
from ropevit.tasks.detect.train import Detection
from ropevit.tasks.distributed import Communicator, make_accelerator, shutdown
from ropevit.tasks.evaluate import evaluate
from ropevit.tasks.evaluation.config import EvalConfig
from ropevit.tasks.evaluation.loop import EvalSizeDone
from ropevit.weights.errors import WeightsError
from tasks.detect.eval_data import CLASSES, IDS, annotate, open_images, save_tiny
from tasks.detect.generated import small_training


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A detector, and data of which it finds some objects at its own size."""
    root = tmp_path_factory.mktemp("detect")
    path = save_tiny(root / "run" / "best.safetensors")
    source = open_images(root / "coco")
    model, info = load_detector(path)
    mean, std = (torch.tensor(info.metadata[name]).view(-1, 1, 1) for name in ("mean", "std"))
    places = {"workers": 0, "world": 1, "rank": 0, "autocast": contextlib.nullcontext, "mean": mean, "std": std}
    settings = DetectorSettings(short=64, long=80, max_detections=20, batch_size=1, **places)
    annotate(root / "coco", run_detector(model.eval(), source, settings, Communicator(), lambda _: None)[0])
    return root


def measure(place, out, report=lambda _: None, **options):
    known = {"checkpoint": str(place / "run"), "data": str(place / "coco"), "sizes": (64,), "out": out}
    return evaluate(EvalConfig(**known | {"workers": 0, "device": "cpu"} | options), report)


def table(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def test_scores_at_the_training_size_equal_those_of_the_training(place, tmp_path):
    (row,) = measure(place, tmp_path / "out")
    config = small_training(place / "coco", tmp_path / "run", model={})
    config = replace(
        config, batch_size=1, max_detections=20, scale=ScaleConfig(short_edge_lengths=(64,), test_size=64, max_size=80)
    )
    accelerator = make_accelerator(config.run)
    sources = open_coco(place / "coco", "train"), open_coco(place / "coco", "val", keep_empty=True)
    model = load_detector(place / "run" / "best.safetensors")[0].eval()
    scores = Detection(config, *sources, accelerator, Communicator()).evaluate(model, lambda _: None)
    shutdown()
    assert 5 < row.AP < 95
    written = {name: getattr(row, name) for name in scores}
    assert written == {name: round(score, 4) for name, score in scores.items()}
    assert all(
        value == "" or name in scores
        for name, value in table(tmp_path / "out" / "eval.csv")[0].items()
        if name.startswith("A")
    )


def test_pycocotools_reads_the_detections_and_computes_the_same_ap_per_class(place, tmp_path):
    rows = measure(place, tmp_path / "out", sizes=(48, 64), options=DetectorOptions(save_detections=True))
    assert rows[0].AP != rows[1].AP
    by_class = {line["class"]: line for line in table(tmp_path / "out" / "per_class.csv")}
    assert {key: line["name"] for key, line in by_class.items()} == dict(zip(map(str, IDS), CLASSES, strict=True))
    for row in rows:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(place / "coco" / "annotations" / "instances_val2017.json"))
            judge = COCOeval(truth, truth.loadRes(str(tmp_path / "out" / f"detections-{row.size}.json")), "bbox")
            for step in (judge.evaluate, judge.accumulate, judge.summarize):
                step()
        assert (row.AP, row.ARs) == pytest.approx((100 * judge.stats[0], 100 * judge.stats[9]), abs=1e-3)
        for index, number in enumerate(judge.params.catIds):
            precision = judge.eval["precision"][:, :, index, 0, -1]
            wanted = "" if precision.min() < 0 else f"{100 * precision.mean():.2f}"
            assert by_class[str(number)][str(row.size)] == wanted


def test_size_is_the_shorter_side_and_the_limit_on_the_longer_scales_with_it(place, tmp_path, monkeypatch):
    seen, original = [], module.run_detector

    def spy(model, source, search, *rest):
        model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1][0]))
        return original(model, source, search, *rest)

    monkeypatch.setattr(module, "run_detector", spy)
    (row,) = measure(place, tmp_path / "out", sizes=(96,))
    assert row.longest == 120
    shapes = [image[2:] for image in open_coco(place / "coco", "val", keep_empty=True).images]
    assert len(seen) == len(shapes) == row.images
    for (height, width), found in zip(shapes, seen, strict=True):
        scale = min(96 / min(height, width), 120 / max(height, width))
        assert abs(found[0] - height * scale) <= 1
        assert abs(found[1] - width * scale) <= 1
    assert max(map(max, seen)) == 120, "the limit is reached"
    assert default_sizes(800, module.SIZE_FACTORS) == [480, 640, 800, 1024, 1333]


@pytest.mark.full  # by default evaluations of classifiers and segmenters are resumed
def test_resume_evaluates_missing_sizes_and_refuses_other_settings(place, tmp_path):
    out, done = tmp_path / "out", []

    def interrupt(event):
        if isinstance(event, EvalSizeDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(place, out, interrupt, sizes=(32, 64))
    kept = table(out / "eval.csv")
    measure(place, out, lambda event: done.append(event), sizes=(32, 64), resume=True)
    assert [event.row.size for event in done if isinstance(event, EvalSizeDone)] == [64]
    assert table(out / "eval.csv")[:1] == kept
    assert {file.name for file in out.iterdir()} == {
        "eval.csv",
        "per_class.csv",
        "eval.json",
        "curve.png",
        "report.html",
    }
    for options, changed in (
        ({"options": DetectorOptions(save_detections=True)}, "save_detections was False, now True"),
        ({"batch_size": 2}, "batch_size was 1, now 2"),
        ({"checkpoint": str(save_tiny(tmp_path / "other.safetensors", position="ape"))}, "fingerprint was"),
    ):
        with pytest.raises(ValueError, match=f"evaluated with other settings .{changed}"):
            measure(place, out, resume=True, **options)


def test_options_of_other_tasks_are_refused(place, tmp_path):
    given = ClassifierOptions(protocol="paper", crop_pct=0.9)
    with pytest.raises(
        ValueError, match="got --protocol, --crop-pct, for classifiers only, with a detector; leave it out"
    ):
        measure(place, tmp_path / "out", options=given)
    with pytest.raises(ValueError, match="got --scaling yarn with a detector; a detector is trained at many sizes"):
        measure(place, tmp_path / "out", scaling="yarn")
    with pytest.raises(
        ValueError, match="got --model deit_tiny with a detector; its file holds the config of its model"
    ):
        measure(place, tmp_path / "out", model="deit_tiny")
    file = str(place / "run" / "best.safetensors")
    with pytest.raises(ValueError, match="got --weights best for a file"):
        measure(place, tmp_path / "out", checkpoint=file, weights="best")
    with pytest.raises(ValueError, match="got size 0"):
        measure(place, tmp_path / "out", sizes=(0, 64))
    assert not (tmp_path / "out").exists()


def test_data_with_other_classes_are_refused_naming_the_differences(place, tmp_path):
    path = save_tiny(tmp_path / "other.safetensors", classes=[*CLASSES[:2], "cone", "ball"], ids=[1, 3, 90, 91])
    differ = r"\(only in the checkpoint: 90 cone, 91 ball; only in the data: 90 triangle\)"
    with pytest.raises(ValueError, match=f"has 4 classes, .*val2017.json has 3 different ones {differ}"):
        measure(place, tmp_path / "out", checkpoint=str(path))
    bare = save_tiny(tmp_path / "bare.safetensors", test_side=64)
    monkey = load_detector(bare)[1]
    del monkey.metadata["test_side"]
    with pytest.raises(WeightsError, match="lacks the metadata test_side"):
        check_metadata(monkey, module.METADATA, bare)


def test_unreadable_images_are_named_and_their_objects_count_as_missed(place, tmp_path):
    (before,) = measure(place, tmp_path / "before")
    file = place / "coco" / "val2017" / "000000000017.jpg"
    content, events = file.read_bytes(), []
    try:
        file.write_bytes(b"")
        (row,) = measure(place, tmp_path / "out", events.append)
    finally:
        file.write_bytes(content)
    assert (row.images, row.skipped) == (5, 1)
    assert row.AR100 < before.AR100
    said = f"{file}: cannot identify image file"
    assert [event.skipped for event in events if isinstance(event, EvalSizeDone)] == [(said,)]


@pytest.mark.full  # by default curves of classifiers are
def test_curves_of_comparable_evaluations_are_drawn_in_one_plot(place, tmp_path, monkeypatch):
    drawn, original = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *to, **how: drawn.append(figure) or original(figure, *to, **how)
    )
    (row,) = measure(place, tmp_path / "mixed")
    other = save_tiny(tmp_path / "ape" / "model.safetensors", position="ape")
    (ape,) = measure(place, tmp_path / "ape_eval", checkpoint=str(other), compare_with=(tmp_path / "mixed",))
    (axes,), (legend,) = drawn[-1].axes, drawn[-1].legends
    marked, *curves = axes.lines
    assert set(marked.get_xdata()) == {64}  # the training size of both
    shown = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in curves}
    assert shown == {"absolute (APE): ape": [(64, ape.AP)], "RoPE-Mixed: run": [(64, row.AP)]}
    assert [text.get_text() for text in legend.get_texts()] == list(shown)
    assert (axes.get_ylabel(), legend.get_title().get_text()) == ("AP (%)", "AP on coco/val")
    measure(place, tmp_path / "mixed", compare_with=(tmp_path / "ape_eval",), resume=True)
    labels = [line.get_label() for line in drawn[-1].axes[0].lines[1:]]
    assert labels == list(shown)[::-1], "drawn though nothing was missing"
