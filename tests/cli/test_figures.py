import csv
import sys

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import ropevit
from marks import by_default
from ropevit.analysis import catalog
from ropevit.analysis.catalog import FIGURES, FigureResult, FigureSpec
from ropevit.analysis.layers import rotated_layers
from ropevit.cli import main
from ropevit.cli.figure_models import Preprocessing, load_images, open_figure_model, random_figure_model
from ropevit.cli.figures import parse_points
from ropevit.models import ViT, ViTConfig

#: The figures of the rotation, which need no images.
ROTATION = ("frequencies", "reconstruction", "response", "phases")
NAME = "rope_mixed_deit_tiny_patch16_LS"


def tiny(position="rope_mixed", **fields):
    config = {"width": 16, "depth": 1, "heads": 2, "patch_size": 8, "img_size": (24, 24), "num_classes": 2}
    return ViT(ViTConfig(position=position, **{**config, **fields}))


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves a small ViT, as a training would."""

    def save(position="rope_mixed", folder="run", **fields):
        path = tmp_path / folder / "model.safetensors"
        return str(ropevit.save_model(path, tiny(position, **fields), metadata={"mean": 0.5, "std": 0.25}))

    return save


def frequencies_in(path):
    with path.open() as file:
        return torch.tensor([[float(row["fx"]), float(row["fy"])] for row in csv.DictReader(file)]).T


@pytest.mark.usefixtures("rendered")
@pytest.mark.parametrize("name", by_default(["frequencies"], ROTATION))  # the others are drawn with options, below
def test_a_figure_is_a_png_an_svg_and_a_table(saved, tmp_path, capsys, name):
    out = tmp_path / "out"
    main(["figures", name, "--checkpoint", saved(), "--out", str(out)])
    assert sorted(path.name for path in out.iterdir()) == [f"{name}.csv", f"{name}.png", f"{name}.svg"]
    with Image.open(out / f"{name}.png") as image:
        assert image.width > 600
    assert "<svg" in (out / f"{name}.svg").read_text(encoding="utf-8")
    with (out / f"{name}.csv").open() as file:
        assert next(csv.DictReader(file))["layer"] in ("blocks.0.attn", "RoPE-Axial")
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("wrote ")] == [
        f"wrote {out / name}.{suffix}" for suffix in ("png", "svg", "csv")
    ]


def test_the_title_names_the_training_and_random_weights(saved):
    figure_model, preprocessing = open_figure_model(None, saved(folder="my_training"), None)
    assert (figure_model.label, figure_model.trained_size, figure_model.trained_grid) == (
        "my_training",
        (24, 24),
        (3, 3),
    )
    assert (preprocessing.mean, preprocessing.embedded) == ((0.5, 0.5, 0.5), False)
    assert open_figure_model(None, saved(in_channels=1), None)[1].embedded
    figure_model, _ = random_figure_model(NAME)
    assert figure_model.label == f"{NAME}, random weights"
    torch.manual_seed(1)
    again = random_figure_model(NAME)[0].model.state_dict()
    assert all(torch.equal(again[key], value) for key, value in figure_model.model.state_dict().items())


@pytest.mark.full  # weights of all layouts are read alike: tests/weights
def test_checkpoints_in_published_and_timm_layout_are_drawn_alike(tmp_path):
    model = ropevit.create_model(NAME)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    source = str(tmp_path / "weights.pth")
    expected = torch.cat([layer.frequencies.flatten(1) for layer in rotated_layers(model)], 1)
    for to, file in (("published", source), ("timm", str(tmp_path / "timm.safetensors"))):
        if to == "timm":
            main(["convert", source, file, "--to", "timm", "--model", NAME])
        out = tmp_path / to
        main(["figures", "frequencies", "--model", NAME, "--checkpoint", file, "--out", str(out)])
        torch.testing.assert_close(frequencies_in(out / "frequencies.csv"), expected)


@pytest.mark.full  # two full-size models are converted
def test_weights_of_published_shape_alone_do_not_count_as_published(tmp_path):
    own = ropevit.save_model(tmp_path / "own.safetensors", ropevit.create_model(NAME))
    torch.save(ropevit.create_model(NAME, num_classes=10).state_dict(), tmp_path / "ten.pth")
    for source, file in (("own.safetensors", "thousand.pth"), ("ten.pth", "converted.pth")):
        main(["convert", str(tmp_path / source), str(tmp_path / file), "--to", "published", "--model", NAME])
    given = (None, str(own), None), (NAME, str(tmp_path / "converted.pth"), None)
    for figure_model in (*(open_figure_model(*each)[0] for each in given), random_figure_model(NAME)[0]):
        assert (figure_model.name, figure_model.published) == (NAME, False)
    assert open_figure_model(NAME, str(tmp_path / "thousand.pth"), None)[0].published


def test_all_skips_figures_that_do_not_apply_and_prints_why(saved, tmp_path, capsys, monkeypatch):
    only = {name: FIGURES[name] for name in ("frequencies", "phases")}
    only["mine"] = FigureSpec("mine", "Mine", "One number.", made)
    monkeypatch.setattr(catalog, "FIGURES", only)
    main(["figures", "all", "--checkpoint", saved("ape"), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    for name in ("frequencies", "phases"):
        assert f"skipped {name}: no attention layer of the model has RoPE, which this figure needs" in printed
    assert (tmp_path / "out/mine.csv").read_text() == "answer\n42\n"
    assert not (tmp_path / "out/phases.png").exists()


def test_all_does_not_hide_other_errors():
    def wrong(*_):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        catalog.try_figure(FigureSpec("mine", "Mine", "", wrong), random_figure_model(NAME)[0], catalog.FigureOptions())


def made(figure_model, options):
    del options
    assert figure_model.label == "run"
    return FigureResult(Figure(), [{"answer": 42}])


@pytest.mark.usefixtures("rendered")
def test_sizes_points_and_scaling_are_used_by_the_figures(saved, tmp_path):
    path = saved()
    main(["figures", "phases", "--checkpoint", path, "--sizes", "40,48", "--out", str(tmp_path / "a")])
    with (tmp_path / "a/phases.csv").open() as file:
        assert {(row["rows"], row["columns"]) for row in csv.DictReader(file)} == {("5", "5"), ("6", "6")}
    main(["figures", "reconstruction", "--checkpoint", path, "--points=-1,2 4,0", "--out", str(tmp_path / "b")])
    assert "(-1, 2) and (4, 0)" in (tmp_path / "b/reconstruction.svg").read_text(encoding="utf-8")
    main(["figures", "response", "--checkpoint", path, "--scaling", "pi", "--out", str(tmp_path / "c")])
    assert "RoPE scaling: pi." in (tmp_path / "c/response.svg").read_text(encoding="utf-8")


def test_images_are_center_cropped_and_normalized(my_images, tmp_path):
    images = load_images(str(my_images / "red" / "3.png"), Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3), 32)
    assert images.shape == (1, 3, 32, 32)
    assert images[0].mean((1, 2)).argmax() == 0  # red
    assert load_images("fashion", Preprocessing(mean=(0.5,), std=(0.25,)), 20).shape == (8, 1, 20, 20)
    (tmp_path / "val").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "val/a.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "b.png")
    assert len(load_images(str(tmp_path), Preprocessing(), 16)) == 1


def test_points_are_read_in_pairs():
    assert parse_points(" 3,3   -2,2") == ((3, 3), (-2, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frequencies"], "got neither --model nor --checkpoint"),
        (["colors", "--checkpoint", "FILE"], "no figure named 'colors'; choose one of frequencies"),
        (["frequencies", "--checkpoint", "gone.safetensors"], "no file 'gone.safetensors'"),
        (["frequencies", "--model", "deit_huge"], "no model named 'deit_huge'"),
        (["frequencies", "--checkpoint", "FILE", "--model", NAME], "leave out --model"),
        (["frequencies", "--checkpoint", "FILE", "--random"], "--random needs --model NAME"),
        (["frequencies", "--checkpoint", "APE"], "no attention layer of the model has RoPE"),
        (
            ["frequencies", "--checkpoint", "FILE", "--weights", "last"],
            "only the directory of a training run has several",
        ),
        (["frequencies", "--checkpoint", "FILE", "--out", "FULL"], "is not empty; choose another --out"),
        (["frequencies", "--checkpoint", "FILE", "--scaling", "more"], "no scaling method named 'more'"),
        (
            ["phases", "--checkpoint", "FILE", "--sizes", "0"],
            "got sizes (0,); expected different numbers of pixels above 0",
        ),
        (["phases", "--checkpoint", "FILE", "--sizes", "44"], "use a height of 40 or 48 and a width of 40 or 48"),
        (
            ["reconstruction", "--checkpoint", "FILE", "--points", "3;3"],
            "got points '3;3'; expected different x,y in patches",
        ),
        (["reconstruction", "--checkpoint", "FILE", "--points", "3,3 3,3"], "expected different x,y"),
        (["reconstruction", "--checkpoint", "FILE", "--points", "3,101"], "expected x and y from -100 to 100"),
        (["frequencies", "--checkpoint", "FILE", "--points", "7,7"], "got --points for frequencies; it is for reconst"),
        (["reconstruction", "--checkpoint", "FILE", "--sizes", "48"], "got --sizes for reconstruction; it is for resp"),
        (
            ["phases", "--checkpoint", "FILE", "--images", "x"],
            "it is for distance, entropy, position_probe, all: omit it",
        ),
        (["distance", "--checkpoint", "FILE", "--images", "gone"], "no image file or folder at gone"),
    ],
)
def test_wrong_input_is_one_line(saved, tmp_path, capsys, arguments, message):
    words = {"FILE": saved(), "APE": saved("ape", "ape"), "FULL": str(tmp_path / "run")}
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main(["figures", *(words.get(word, word) for word in arguments), *out])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_the_extra_is_named(saved, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        main(["figures", "frequencies", "--checkpoint", saved()])
    assert (
        'matplotlib is not installed; in a clone of ropevit, install it with: pip install ".[figures]"'
        in capsys.readouterr().err
    )
