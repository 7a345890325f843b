import csv
from pathlib import Path

import pytest
import torch

import ropevit
from ropevit.cli import main
from ropevit.cli.eval import result_table
from ropevit.data.fashion import CLASSES, load_fashion
from ropevit.models import ViT, ViTConfig
from ropevit.models.published import curve
from ropevit.tasks.classify import evaluate as module
from ropevit.tasks.classify.evaluate import ClassifierResult
from ropevit.tasks.evaluation.loop import EvalStarted


@pytest.fixture
def checkpoint(tmp_path):
    config = ViTConfig(position="ape", width=16, depth=1, heads=2, patch_size=8, img_size=(16, 16), num_classes=3)
    return str(ropevit.save_model(tmp_path / "own.safetensors", ViT(config), classes=["blue", "green", "red"]))


@pytest.fixture
def arguments(checkpoint, my_images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data" / "my_images"
    data.mkdir(parents=True)
    (data / "val").symlink_to(my_images)
    return ["eval", "--checkpoint", checkpoint, "--data", str(data), "--workers", "0", "--device", "cpu"]


@pytest.mark.usefixtures("rendered")
def test_a_classifier_is_evaluated_at_sizes_with_commas_and_at_others_on_resume(arguments, tmp_path, capsys):
    main([*arguments, "--sizes", "8,16"])
    printed = capsys.readouterr().out
    assert "own on my_images/val: protocol paper, crop ratio 1, float32, cpu" in printed
    assert "16 (training)" in printed
    assert printed.count("broken.png") == 1
    assert "resumed" not in printed
    main([*arguments, "--sizes", "8", "24", "--resume"])
    assert "resumed, with the results of 8 px, 16 px from before" in capsys.readouterr().out
    with (tmp_path / "runs/eval/own/eval.csv").open() as file:
        assert [row["size"] for row in csv.DictReader(file)] == ["8", "16", "24"]
    assert (tmp_path / "runs/eval/own/curve.png").stat().st_size > 5_000


def test_baselines_stand_in_the_table_with_their_cost(arguments, capsys):
    main([*arguments, "--sizes", "16,24", "--baselines", "tiles", "resize"])
    printed = capsys.readouterr().out
    assert "24 px, tiles: top-1" in printed
    print(printed)
    rows = [line.split() for line in printed.splitlines() if line.lstrip().startswith(("size", "16 ", "24 "))]
    (heading, training, *larger) = [row for row in rows if "px," not in row and "px:" not in row]
    assert heading[:2] == ["size", "mode"]
    place = heading.index("tokens")
    assert training[:3] == ["16", "(training)", "whole"]
    assert [(row[1], row[place]) for row in larger] == [("whole", "9"), ("tiles", "16"), ("resize", "4")]
    main([*arguments, "--sizes", "16,24", "--resume", "--baselines", "resize"])


def test_a_model_of_a_study_is_evaluated_on_the_embedded_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    facts = {"patch_size": 14, "img_size": (28, 28), "num_classes": 10, "in_channels": 1}
    config = ViTConfig(position="rope_axial", width=16, depth=1, heads=2, class_token=False, pooling="avg", **facts)
    model, test = ViT(config).eval(), load_fashion("test")
    metadata = {"panel": "zoom", "train_size": 28, "mean": 0.5, "std": 0.25}
    ropevit.save_model(Path("zoom/model.safetensors"), model, classes=CLASSES, metadata=metadata)
    main(["eval", "--checkpoint", "zoom", "--data", "fashion", "--sizes", "28", "--workers", "0", "--device", "cpu"])
    assert "the model takes gray images" in capsys.readouterr().out
    with torch.no_grad():
        right = model((test.images / 255 - 0.5) / 0.25).argmax(1) == test.labels
    with (tmp_path / "runs/eval/zoom/eval.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["top1"]) == pytest.approx(100 * right.double().mean().item(), abs=0.051)  # ties of rounding


def test_ctrl_c_keeps_finished_sizes(arguments, tmp_path, capsys, monkeypatch):
    original = module.evaluate_size

    def interrupted(model, view, bench, mode):
        if view.size == 16:
            raise KeyboardInterrupt
        return original(model, view, bench, mode)

    monkeypatch.setattr(module, "evaluate_size", interrupted)
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--sizes", "8", "16"])
    assert stopped.value.code == 130
    printed = capsys.readouterr().out
    assert "the same command with --resume evaluates the remaining sizes" in printed
    assert "8 px: top-1" in printed
    assert "results are in runs/eval/own" in printed
    assert (tmp_path / "runs/eval/own/eval.csv").read_text().count("\n") == 2


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--sizes", "12"], "got size 12, which patches of 8 pixels do not tile; take 8 or 16"),
        (["--batch-size", "0"], "got batch_size=0"),
        (
            ["--device", "cuda"],
            "got device 'cuda', which is not available here; take auto, cpu, cuda",
        ),
        (["--device", "tpu"], "got device 'tpu'; take auto, cpu, cuda, cuda:N, mps or xpu"),
        (["--weights", "ema"], "holds no EMA"),
        (["--out", "own.safetensors"], "got the file own.safetensors for a directory"),
    ],
)
def test_wrong_input_is_one_line(arguments, tmp_path, capsys, extra, message):
    if "cuda" in extra and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit) as stop:
        main([*arguments, *extra])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_published_accuracies_show_their_uncertainty(tmp_path):
    published = curve("deit_small_patch16_LS")
    assert [str(published[size]) for size in (144, 224, 256)] == ["73.5±0.1", "80.4", "80.9±0.05"]
    started = EvalStarted(
        name="it", description="", trained_at=224, sizes=(224,), paper=published, rows=(), out=tmp_path, notes=()
    )
    stats = {"top1": 80.0, "top5": 95.0, "images": 50_000, "skipped": 0}
    row = ClassifierResult(
        size=224, **stats, images_per_second=1.0, peak_memory_gib=1.0, window=7, resize=256, crop=0.875
    )
    table = result_table(started, [row])
    assert [column.header for column in table.columns][:6] == ["size", "resize", "window", "top-1", "top-5", "paper"]
