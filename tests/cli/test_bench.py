import csv
from dataclasses import replace

import pytest
from torch import nn

from ropevit.bench import peers, runner, scale, shapes, timing
from ropevit.cli import main
from ropevit.extras import MissingExtraError

HEADS = {"no embedding", "no embedding, timm's split"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small shapes, with one call of each candidate per round."""
    monkeypatch.setattr(timing, "ROUND_SECONDS", 0.0)
    monkeypatch.setitem(shapes.SIZES, "quick", replace(shapes.SIZES["quick"], width=32, heads=2, pixels=32))
    monkeypatch.setitem(runner.SHAPES, "vit224", shapes.Shape(name="vit224", h=2, w=3, heads=2, channels=16))


def rows(out):
    with (out / "bench.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "runs" / "bench"


@pytest.mark.full  # the others time one level each
@pytest.mark.usefixtures("rendered")
def test_all_levels_are_timed_and_written(out, capsys):
    main(["bench", "--quick", "--threads", "1", "--out", str(out)])
    found = rows(out)
    assert {row["level"] for row in found} == {"op", "layer", "attention", "model"}
    for row in found:
        assert not row["note"], row
        assert float(row["milliseconds"]) > 0
        assert float(row["ratio_low"]) <= float(row["ratio"]) <= float(row["ratio_high"])
        assert float(row["error"]) < 1e-4
        assert row["rounds"] == "3"
    bases = [row for row in found if row["label"] == row["base"]]
    assert len(bases) == 8
    assert {row["ratio"] for row in bases} == {"1"}
    page = (out / "bench.md").read_text()
    assert "- threads: 1" in page
    assert "- timm: 1." in page
    for label in ("ours (cpu), mixed", "timm, mixed", "transformers DINOv3, axial", "complex numbers, axial"):
        assert page.count(f"| {label} |") >= 4
    assert "MB kept" in page
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "ours (cpu), mixed" in printed
    assert "bench.png" in printed


def test_shapes_and_peers_are_chosen(out):
    main(["bench", "op", "--quick", "--shapes", "vit224,swin4", "--peers", "plain", "--images", "1", "--out", str(out)])
    found = rows(out)
    assert list(dict.fromkeys(row["shape"] for row in found)) == ["vit224", "swin4"]
    assert {row["library"] for row in found} == {"none", "plain"}
    assert all(row["about"].startswith("1 x ") for row in found)
    copy = next(row for row in found if row["label"] == "copy of q and k" and row["shape"] == "swin4")
    moved = 4 * 49 * 1024 * 4  # q and k are read and written, in float32
    assert float(copy["gigabytes_per_second"]) == pytest.approx(moved / float(copy["milliseconds"]) / 1e6, rel=2e-3)


def test_results_are_overwritten_only_with_overwrite(out, capsys):
    command = ["bench", "op", "--quick", "--peers", "plain", "--out", str(out)]
    main(command)
    before = (out / "bench.csv").read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert (out / "bench.csv").read_bytes() == before
    main([*command, "--overwrite"])
    assert (out / "bench.csv").read_bytes() != before


def test_a_missing_package_leaves_a_row_with_the_reason(out, monkeypatch, capsys):
    def require(module, extra):
        raise MissingExtraError(f'{module.split(".")[0]} is not installed; pip install ".[{extra}]"')

    monkeypatch.setattr(peers, "require", require)
    main(["bench", "layer", "--quick", "--peers", "timm", "ours", "--out", str(out)])
    missing = [row for row in rows(out) if row["library"] == "timm"]
    assert len(missing) == 4
    assert all(row["note"].startswith("not installed: timm") and not row["ratio"] for row in missing)
    assert all(row["ratio"] for row in rows(out) if row["library"] == "ours")
    assert ".[train]" in capsys.readouterr().out
    assert "not installed: timm" in (out / "bench.md").read_text()


def test_a_candidate_with_wrong_results_is_dropped_with_the_reason(out, monkeypatch):
    monkeypatch.setattr("ropevit.kernels.cpu.rotate_", lambda *_: None)
    main(["bench", "op", "--quick", "--peers", "ours", "--out", str(out)])
    dropped = [row for row in rows(out) if row["note"]]
    assert {row["label"] for row in dropped} == {"ours (cpu), axial", "ours (cpu), mixed"}
    assert all(
        row["note"].startswith("dropped, wrong: q has a relative error of") and not row["milliseconds"]
        for row in dropped
    )


def test_an_interrupt_keeps_what_is_finished(out, monkeypatch, capsys):
    run_group = runner.run_group

    def interrupted(group, *rest):
        if group.level == "layer":
            raise KeyboardInterrupt
        return run_group(group, *rest)

    monkeypatch.setattr(runner, "run_group", interrupted)
    with pytest.raises(SystemExit) as stop:
        main(["bench", "--quick", "--peers", "plain", "--out", str(out)])
    assert stop.value.code == 130
    assert {row["level"] for row in rows(out)} == {"op"}
    assert (out / "bench.png").exists()
    assert "stopped; finished results are in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kernel"], "no level named 'kernel'; choose from op, layer, attention, model, scale, all"),
        (["--shapes", "vit225"], "no shape named 'vit225'; choose from vit224"),
        (["--peers", "jax"], "no peer named 'jax'; choose from ours, timm, transformers, plain"),
        (["--shapes", "swin1,swin1"], "name each once"),
        (["--device", "tpu"], "got device 'tpu'"),
        (["--device", "cuda"], "got device 'cuda', which is not available here"),
        (["--dtype", "int8"], "got dtype 'int8'; choose one of float32, bfloat16"),
        (["--rounds", "0"], "got rounds=0; expected at least 1"),
        (["--threads", "0"], "got threads=0; expected at least 1"),
    ],
)
def test_wrong_input_is_one_line(arguments, message, out, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main(["bench", *arguments, "--out", str(out)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


@pytest.mark.full  # tests/bench has its parts
def test_scale_shows_how_cost_grows_and_leaves_out_what_was_wrong(out, capsys, monkeypatch):
    tiny = replace(shapes.SIZES["quick"], pixels=32)
    sizes = shapes.ScaleSizes((tiny, replace(tiny, pixels=64)), (), shapes.MixedSizes(tiny, ((32, 32), (16, 48))))
    monkeypatch.setitem(shapes.SCALE_SIZES, "quick", sizes)
    monkeypatch.setattr(scale, "_dinov3", lambda _: nn.Sequential(nn.Flatten(), nn.LazyLinear(9), nn.Dropout(0.5)))
    main(["bench", "scale", "--quick", "--out", str(out)])
    found = rows(out)
    wrong = [row for row in found if "DINOv3" in row["label"]]
    assert {row["shape"] for row in wrong} == {f"{tiny.name}, 32 px"}
    assert all(row["note"].startswith("dropped, wrong: logits") for row in wrong)
    assert {row["shape"] for row in found if row["milliseconds"]} == {
        f"{tiny.name}, {what}" for what in ("32 px", "64 px", "mixed sizes")
    }
    assert f"### {tiny.name}, training step: memory" in (out / "bench.md").read_text()
    assert (out / "scale.png").exists()
    assert not (out / "bench.png").exists()
    assert "scale.png" in capsys.readouterr().out
