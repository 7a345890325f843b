import csv
import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ropevit
from ropevit.data.imagenet import imagenet_classes
from ropevit.data.images import read_image
from ropevit.data.labeled import LabeledImages
from ropevit.data.sources import MemorySource, open_source
from ropevit.models import Swin, SwinConfig, get_config
from ropevit.models.published import curve
from ropevit.tasks.classify import evaluate as module
from ropevit.tasks.classify.classes import match_classes
from ropevit.tasks.classify.eval_model import open_eval_model
from ropevit.tasks.classify.evaluate import ClassifierOptions, evaluate
from ropevit.tasks.classify.predict import InputTransform, classify
from ropevit.tasks.classify.protocol import plan_views
from ropevit.tasks.evaluation.config import EvalConfig, read_sizes
from ropevit.tasks.evaluation.loop import EvalSizeDone, EvalStarted
from ropevit.weights import save_model

from .conftest import SYNSETS, small_vit, stubborn_vit, write_image

PETS = ["dog", "bird", "cat"]  # in another order than the folders
TWO_PROCESSES = Path(__file__).parents[2] / "two_processes.py"


def measure(checkpoint, data, out, report=lambda _: None, **options):
    options = {"sizes": (16,), "workers": 0, "device": "cpu"} | options
    own = {name: options.pop(name) for name in ("protocol", "crop_pct", "real_labels") if name in options}
    options["options"] = ClassifierOptions(**own)
    return evaluate(EvalConfig(checkpoint=checkpoint, data=str(data), out=out, **options), report)


def table(path):
    with Path(path).open() as file:
        return list(csv.DictReader(file))


def per_class(out, size=16):
    return {row["class"]: float(row[str(size)]) for row in table(out / "per_class.csv")}


def test_classes_are_matched_by_name_in_any_order(pets, weights, tmp_path):
    (row,) = measure(weights(stubborn_vit(0, num_classes=3), classes=PETS), pets, tmp_path / "out")
    assert (row.images, row.skipped, row.top5) == (7, 1, None)
    assert row.scores.keys() == {"top-1"}, "of three classes, five guesses always contain the right one"
    assert table(tmp_path / "out" / "eval.csv")[0]["top5"] == ""
    assert row.top1 == pytest.approx(100 * 2 / 7, abs=1e-3)
    assert per_class(tmp_path / "out") == {"bird": 0, "cat": 0, "dog": 100}


def test_models_of_gray_images_convert_rgb_images_and_note_it(pets, weights, tmp_path):
    events, facts = [], {"mean": 0.3, "std": 0.4}
    model = small_vit(3, in_channels=1, size=16)
    path = weights(model, classes=PETS, metadata=facts)
    measure(path, pets, tmp_path / "out", events.append)
    assert any("gray" in note for note in events[0].notes)
    form = InputTransform(size=(16, 16), multiple=16, mean=(0.3,), std=(0.4,))
    files = sorted(file for file in (pets / "val").rglob("*.png") if file.stem != "broken")
    right = {name: [] for name in PETS}
    for file in files:
        guess = classify(model, read_image(file), form, PETS, 1).top_classes[0].name
        right[file.parent.name].append(guess == file.parent.name)
    assert per_class(tmp_path / "out") == {
        name: pytest.approx(100 * sum(found) / len(found), abs=0.01) for name, found in right.items()
    }


def test_the_conversion_to_gray_is_that_of_pillow():
    images = torch.randint(0, 256, (2, 3, 9, 7), dtype=torch.uint8)
    for image, gray in zip(images, module.to_gray(images), strict=True):
        wanted = np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
        assert torch.equal(gray[0], torch.from_numpy(wanted))


def test_folders_of_wordnet_ids_are_classes_of_imagenet(validation, weights, tmp_path):
    (row,) = measure(weights(stubborn_vit(7, 2, 30)), validation, tmp_path / "out")
    assert (row.images, row.top1, row.top5) == (1000, 0.1, 0.5)  # three of the five, and two ties
    right = per_class(tmp_path / "out")
    assert [name for name, percent in right.items() if percent] == [SYNSETS[7]]
    assert table(tmp_path / "out" / "per_class.csv")[7]["name"] == imagenet_classes()[7]


def test_folders_named_by_numbers_are_class_indices_not_sorted_as_text(weights, tmp_path):
    for number in range(1000):
        write_image(tmp_path / "v2" / str(number) / "0.jpeg", side=4)
    match = match_classes(open_source(str(tmp_path / "v2"), "val"), None, 1000, "a model")
    assert match.imagenet
    assert match.columns[:4] == (0, 1, 10, 100)
    measure(weights(stubborn_vit(2)), tmp_path / "v2", tmp_path / "out")
    assert [name for name, percent in per_class(tmp_path / "out").items() if percent] == ["2"]


def test_a_data_set_with_fewer_classes_is_evaluated_on_these_classes_only(weights, tmp_path):
    for label in (5, 300, 301):
        write_image(tmp_path / "few" / SYNSETS[label] / "0.png")
    notes = []
    (row,) = measure(
        weights(stubborn_vit(0, 300)),
        tmp_path / "few",
        tmp_path / "out",
        lambda event: notes.extend(event.notes if isinstance(event, EvalStarted) else ()),
    )
    assert per_class(tmp_path / "out")[SYNSETS[300]] == 100
    assert row.top1 == pytest.approx(100 / 3, abs=1e-3)
    assert "evaluated on 3 of the model's 1000 classes, those of the data" in notes


def test_any_real_label_is_correct_and_images_without_one_are_skipped(validation, weights, tmp_path):
    labels = [[5] for _ in range(1000)]
    labels[0], labels[1], labels[2] = [9, 7], [], [3, 8]  # images 1 to 3, of classes 999, 998, 997
    (tmp_path / "real.json").write_text(json.dumps(labels))
    options = {"real_labels": tmp_path / "real.json"}
    (row,) = measure(weights(stubborn_vit(7, 8)), validation, tmp_path / "out", **options)
    assert (row.images, row.skipped, row.top1, row.top5) == (999, 1, round(100 / 999, 4), round(200 / 999, 4))
    right = per_class_text(tmp_path / "out")
    assert (right[SYNSETS[999]], right[SYNSETS[998]], right[SYNSETS[997]]) == ("100.00", "", "0.00")
    assert not (tmp_path / "out" / "confusion.csv").exists()


def per_class_text(out):
    return {row["class"]: row["16"] for row in table(out / "per_class.csv")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "as JSON"),
        ('{"a": 1}', "no list of lists"),
        ("[[1000]]", "other than 0 to 999"),
        ("[[1]]", "none of the 1 images"),
    ],
)
def test_wrong_real_labels_are_refused(validation, weights, tmp_path, text, message):
    (tmp_path / "real.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        measure(weights(stubborn_vit(7)), validation, tmp_path / "out", real_labels=tmp_path / "real.json")
    assert not (tmp_path / "out").exists()


def test_classes_that_do_not_match_are_refused_by_name(pets, validation, weights, tmp_path):
    with pytest.raises(ValueError, match=r"classes of pets.*bird, cat, dog.*not among those of weights .*n01440764"):
        measure(weights(stubborn_vit(7)), pets, tmp_path / "out")
    with pytest.raises(ValueError, match=r"3: bird, cat, cow"):
        measure(weights(small_vit(3), classes=["bird", "cat", "cow"]), pets, tmp_path / "out")
    with pytest.raises(ValueError, match=r"ReaL labels for pets.*validation images only"):
        measure(weights(small_vit(3), classes=PETS), pets, tmp_path / "out", real_labels=validation / "real.json")


def test_a_model_without_class_names_assumes_those_of_the_data_and_notes_it(pets):
    source = open_source(str(pets), "val")
    match = match_classes(source, None, 3, "it")
    assert match.columns == (0, 1, 2)
    assert "it names no classes" in match.note
    with pytest.raises(ValueError, match="4 without names"):
        match_classes(source, None, 4, "it")


def test_shards_may_name_imagenet_classes_by_this_packages_names():
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    source = MemorySource(labeled(images, [3], imagenet_classes()))
    assert match_classes(source, None, 1000, "it").columns == tuple(range(1000))
    assert match_classes(source, SYNSETS, 1000, "it").columns == tuple(range(1000))


def labeled(images, labels, classes):
    facts = {"classes": classes, "groups": classes, "name": "made/val", "source": "made here"}
    return LabeledImages(images=images, labels=torch.tensor(labels), **facts)


def test_the_papers_protocol_sets_resizing_crop_and_windows_by_architecture():
    vit, swin = (get_config(name) for name in ("deit_small_patch16_LS", "swin_tiny_patch4_window7_224"))
    views = plan_views(vit, 224, (), "paper")
    assert [view.size for view in views] == [144, 192, 224, 256, 320, 384, 512]
    assert all(view.resize == view.size and view.window is None for view in views)
    views = plan_views(swin, 224, (), "paper")
    assert [view.size for view in views] == [160, 192, 224, 256, 320, 384]
    assert [view.resize for view in views] == [int(256 / 224 * view.size) for view in views]
    assert [view.window for view in views] == [5, 6, 7, 8, 10, 12]
    assert plan_views(swin, 224, (240,), "paper")[0].window == 8  # which does not fit the map: padded
    timm = plan_views(swin, 224, (224, 384), "timm")
    assert [(view.resize, view.window) for view in timm] == [(248, 7), (426, 7)]
    assert plan_views(vit, 224, (224,), "paper", crop=0.5)[0].resize == 448


def test_default_sizes_are_around_the_training_size():
    config = small_vit(patch_size=4, size=28).config
    assert [view.size for view in plan_views(config, 28, (), "paper")] == [16, 20, 24, 28, 32, 40, 48, 64]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": (48, 40)}, "got size 40, which patches of 16 pixels do not tile; take 32 or 48"),
        ({"sizes": (0,)}, "got size 0"),
        ({"protocol": "mine"}, "choose one of paper, timm"),
        ({"crop": 1.5}, "got crop=1.5"),
    ],
)
def test_impossible_views_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        plan_views(small_vit().config, 32, **{"sizes": (), "protocol": "paper"} | options)


def test_sizes_are_read_with_commas_or_spaces():
    assert read_sizes(["144,192", "224,", "256"]) == (144, 192, 224, 256)
    with pytest.raises(ValueError, match="'big'"):
        read_sizes(["144,big"])


def test_embeddings_and_biases_are_resized_for_each_size(weights):
    eval_model = open_eval_model(None, weights(small_vit(3, position="ape")))
    view = plan_views(eval_model.config, 32, (64,), "paper")[0]
    assert eval_model.build(view.config_at(eval_model.config)).pos_embed.shape == (1, 16, 32)
    small = SwinConfig(
        position="rpb", width=16, depths=(1, 1), heads=(2, 2), num_classes=3, img_size=(32, 32), window_size=4
    )
    eval_model = open_eval_model(None, weights(Swin(small)))
    view = plan_views(eval_model.config, 32, (44,), "paper")[0]
    fitted = eval_model.build(view.config_at(eval_model.config))
    assert (view.window, fitted.config.window_size) == (6, 6)
    assert fitted.state_dict()["layers.0.blocks.0.attn.relative_position_bias_table"].shape[0] == 11**2
    assert fitted(torch.zeros(1, 3, 44, 44)).shape == (1, 3)


@pytest.mark.parametrize("position", ["ape", "rope_mixed"])
def test_logits_are_those_of_the_model_called_by_hand(pets, weights, tmp_path, monkeypatch, position):
    model = small_vit(3, position=position, layer_scale=None)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = weights(model, classes=PETS, metadata={"mean": [0.4, 0.5, 0.6], "std": 0.3})
    seen, original = {}, module.classifier

    def spy(model, bench):
        logits_of = original(model, bench)
        return lambda images: seen.setdefault(images.shape[-1], []).append(logits_of(images)) or logits_of(images)

    monkeypatch.setattr(module, "classifier", spy)
    measure(path, pets, tmp_path / "out", sizes=(32, 48), batch_size=3)
    source = open_source(str(pets), "val")
    for size, logits in seen.items():
        fitted = open_eval_model(None, path).build(
            plan_views(model.config, 32, (size,), "paper")[0].config_at(model.config)
        )
        good = [index for index in range(len(source)) if "broken" not in source.describe(index)]
        pixels = torch.stack([module.eval_transform(size)(source.read(index)[0]) for index in good]) / 255
        wanted = fitted((pixels - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / 0.3)[:, [1, 2, 0]]
        torch.testing.assert_close(torch.cat(logits), wanted, rtol=1e-4, atol=1e-4)
    assert list(seen) == [32, 48]


def test_windows_grow_with_the_size_in_an_evaluation(pets, weights, tmp_path, monkeypatch):
    fields = {"width": 16, "depths": (1, 1), "heads": (2, 2), "num_classes": 3, "img_size": (32, 32)}
    path = weights(Swin(SwinConfig(position="rpb", window_size=4, **fields)), classes=PETS)
    windows, original = [], module.classifier

    def spy(model, bench):
        windows.append(model.config.window_size)
        return original(model, bench)

    monkeypatch.setattr(module, "classifier", spy)
    rows = measure(path, pets, tmp_path / "out", sizes=(32, 44))
    assert windows == [row.window for row in rows] == [4, 6]
    assert [(row.crop, row.resize) for row in rows] == [(0.875, 36), (0.875, 50)]


def test_the_reference_grid_of_scaling_is_that_of_the_training(pets, weights, tmp_path, monkeypatch):
    fields = {"width": 16, "depths": (1, 1), "heads": (2, 2), "num_classes": 3, "img_size": (32, 32)}
    swin = Swin(SwinConfig(position="rope_golden", window_size=4, **fields))
    seen, original = [], module.classifier

    def spy(model, bench):
        seen.append((model.config.scaling, model.config.scaling_methods.trained_grid, model.config.attention_grid))
        return original(model, bench)

    monkeypatch.setattr(module, "classifier", spy)
    measure(weights(swin, classes=PETS), pets, tmp_path / "swin", sizes=(32, 44), scaling="ntk")
    vit = weights(small_vit(3), name="vit", classes=PETS)
    measure(vit, pets, tmp_path / "vit", sizes=(48,), scaling="parts+log")
    assert seen == [("ntk", (4, 4), (4, 4)), ("ntk", (4, 4), (6, 6)), ("parts+log", (2, 2), (2, 2))]
    facts = json.loads((tmp_path / "vit" / "eval.json").read_text())
    assert facts["config"]["scaling"] == "parts+log"
    with pytest.raises(ValueError, match=r"evaluated with other settings .scaling was 'parts\+log', now None"):
        measure(vit, pets, tmp_path / "vit", resume=True)
    with pytest.raises(ValueError, match="scaling='ntk' for ape, which has no RoPE; remove"):
        measure(weights(small_vit(3, "ape"), name="ape", classes=PETS), pets, tmp_path / "ape", scaling="ntk")


def test_resume_evaluates_only_missing_sizes(pets, weights, tmp_path):
    path, out = weights(small_vit(3), classes=PETS), tmp_path / "out"

    def interrupt(event):
        if isinstance(event, EvalSizeDone) and event.row.size == 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(path, pets, out, interrupt, sizes=(16, 32, 48))
    kept = table(out / "eval.csv")
    assert [row["size"] for row in kept] == ["16", "32"]
    with pytest.raises(
        ValueError, match="is not empty; choose another --out, or evaluate the missing sizes with --resume"
    ):
        measure(path, pets, out)
    measured = []
    rows = measure(
        path,
        pets,
        out,
        lambda event: measured.append(event.row.size) if isinstance(event, EvalSizeDone) else None,
        sizes=(16, 32, 48),
        resume=True,
    )
    assert measured == [48]
    assert table(out / "eval.csv")[:2] == kept
    assert [row.size for row in rows] == [16, 32, 48]
    assert list(table(out / "per_class.csv")[0]) == ["class", "name", "16", "32", "48"]
    shown = {f"{name}.{form}" for name in ("confusion", "worst") for form in ("csv", "png")}
    assert {file.name for file in out.iterdir()} == {
        "eval.csv",
        "per_class.csv",
        "eval.json",
        "curve.png",
        "report.html",
        *shown,
    }


def test_evaluations_without_a_folder_are_numbered_and_resume_takes_the_last(pets, weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = weights(stubborn_vit(0, num_classes=3), classes=PETS)
    for options in ({}, {}, {"sizes": (16, 32), "resume": True}):
        measure(path, pets, None, **options)
    rows = {folder.name: len(table(folder / "eval.csv")) for folder in (tmp_path / "runs" / "eval").iterdir()}
    assert rows == {"weights": 1, "weights-2": 2}


def test_resume_refuses_other_settings_and_weights(pets, weights, tmp_path):
    path, out = weights(small_vit(3), classes=PETS), tmp_path / "out"
    measure(path, pets, out)
    with pytest.raises(ValueError, match=r"evaluated with other settings .protocol was 'paper', now 'timm'"):
        measure(path, pets, out, resume=True, protocol="timm")
    with pytest.raises(ValueError, match=r"evaluated with other settings .fingerprint was"):
        measure(weights(small_vit(3), name="other", classes=PETS), pets, out, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"no evaluation in .*mine"):
        measure(path, pets, tmp_path / "mine", resume=True)


def test_bfloat16_is_used_and_recorded(pets, weights, tmp_path, monkeypatch):
    types, original = [], module.classifier

    def spy(model, bench):
        logits_of = original(model, bench)
        return lambda images: types.append(logits_of(images).dtype) or logits_of(images)

    monkeypatch.setattr(module, "classifier", spy)
    measure(weights(small_vit(3), classes=PETS), pets, tmp_path / "out", precision="bfloat16")
    assert set(types) == {torch.bfloat16}
    settings = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert settings["config"]["precision"] == "bfloat16"
    assert settings["machine"]["device"].startswith("cpu")
    assert settings["model"]["trained_at"] == 32


def test_the_weights_of_a_training_directory_are_chosen_by_option(tmp_path):
    run = tmp_path / "run"
    for name, label in (("best", 0), ("model", 1)):
        save_model(run / f"{name}.safetensors", stubborn_vit(label, num_classes=3), metadata={"crop": 1.0})
    for weights, label in ((None, 0), ("best", 0), ("last", 1)):
        eval_model = open_eval_model(None, str(run), weights)
        assert eval_model.build(eval_model.config).head.bias.argmax() == label
        assert (eval_model.name, eval_model.crop) == ("run", 1.0)
    with pytest.raises(ValueError, match=r"no model_ema.safetensors; choose --weights best or last"):
        open_eval_model(None, str(run), "ema")
    with pytest.raises(ValueError, match="only the directory of a training run has several"):
        open_eval_model(None, str(run / "best.safetensors"), "last")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no weights"):
        open_eval_model(None, str(tmp_path / "empty"))


def test_a_model_is_determined_by_name_or_by_its_file(weights, tmp_path):
    with pytest.raises(ValueError, match="neither --model nor --checkpoint"):
        open_eval_model(None, None)
    with pytest.raises(ValueError, match="no model named"):
        open_eval_model("deit_huge", None)
    with pytest.raises(ValueError, match="no published weights for 'deit_tiny_patch16_LS'"):
        open_eval_model("deit_tiny_patch16_LS", None)
    with pytest.raises(ValueError, match="leave out --model"):
        open_eval_model("deit_tiny_patch16_LS", weights(small_vit()))
    with pytest.raises(ValueError, match="has no head"):
        open_eval_model(None, weights(small_vit(0)))
    with pytest.raises(ValueError, match=r"has no mean of its pixels, .* for images of 2 channels; save it with"):
        open_eval_model(None, weights(small_vit(in_channels=2)))
    for panel in ("field", "far"):
        with pytest.raises(ValueError, match="labels pixels"):
            open_eval_model(None, weights(small_vit(), metadata={"panel": panel}))
    torch.save(ropevit.create_model("none_deit_tiny_patch16_LS", num_classes=7).state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="name it with --model"):
        open_eval_model(None, str(tmp_path / "a.pth"))
    eval_model = open_eval_model("none_deit_tiny_patch16_LS", str(tmp_path / "a.pth"))
    assert (eval_model.config.num_classes, eval_model.trained_at) == (7, 224)


@pytest.fixture
def four_images(monkeypatch):
    images = torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8)
    source = MemorySource(labeled(images, [1, 2, 3, 4], SYNSETS))
    monkeypatch.setattr(module, "open_source", lambda *_: source)


@pytest.mark.full  # full size; the comparison is tested below
@pytest.mark.usefixtures("four_images")
def test_a_published_model_is_downloaded_and_compared_with_the_papers_results(tmp_path, monkeypatch):
    name = "rope_mixed_deit_small_patch16_LS"
    torch.save({"model": ropevit.create_model(name).state_dict()}, tmp_path / "pytorch_model.bin")
    asked = []
    monkeypatch.setattr(
        "ropevit.weights.reading.fetch", lambda repo, _: asked.append(repo) or tmp_path / "pytorch_model.bin"
    )
    begun = []
    options = {"model": name, "out": tmp_path / "out", "workers": 0, "device": "cpu", "data": "PATH"}
    (row,) = evaluate(EvalConfig(sizes=(144,), **options), begun.append)
    assert asked == [f"naver-ai/{name}"]
    assert (row.images, row.resize) == (4, 144)
    assert begun[0].paper == curve(name)
    options["out"] = tmp_path / "timm"
    begun.clear()
    evaluate(EvalConfig(sizes=(64,), options=ClassifierOptions(protocol="timm"), **options), begun.append)
    assert begun[0].paper == {}  # whose settings differ


@pytest.mark.full  # tests/tasks/test_evaluate.py has two processes by default
def test_two_processes_give_the_scores_of_one(pets, weights, run_command, tmp_path):
    path = weights(small_vit(3), classes=PETS)
    (alone,) = measure(path, pets, tmp_path / "alone", batch_size=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = ["--sizes", "16", "--workers", "0", "--device", "cpu", "--batch-size", "2"]
    command = ["eval", "--checkpoint", path, "--data", pets, "--out", "both", *options]
    result = run_command(tmp_path, [port, *command], script=TWO_PROCESSES)
    assert result.code == 0, result.printed
    both = table(tmp_path / "both" / "eval.csv")[0]
    assert (float(both["top1"]), int(both["images"]), int(both["skipped"])) == (alone.top1, 7, 1)
    for file in ("per_class.csv", "confusion.csv", "worst.csv"):
        assert (tmp_path / "alone" / file).read_text() == (tmp_path / "both" / file).read_text()
    assert result.output.count("top-1") == 2  # one speaks: a line, and the table's heading
