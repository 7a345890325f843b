import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import ropevit
from ropevit.data.coco import open_coco
from ropevit.data.order import TrainOrder
from ropevit.models.registry import get_config
from ropevit.models.vit import ViT
from ropevit.painting import class_color
from ropevit.tasks.dense.init_weights import init_model
from ropevit.tasks.detect.augment import ScaleConfig, train_transform
from ropevit.tasks.detect.average_precision import CocoScores
from ropevit.tasks.detect.batches import eval_reader, normalize, train_batches, train_reader
from ropevit.tasks.detect.boxes import box_cxcywh_to_xyxy
from ropevit.tasks.detect.model import DETECTOR, Detector, load_detector
from ropevit.tasks.detect.recipes import RECIPES, find_recipe
from ropevit.tasks.detect.train import Detection, train
from ropevit.tasks.distributed import Communicator, Interrupted, make_accelerator, shutdown
from ropevit.tasks.training.engine import Task
from ropevit.tasks.training.events import StepDone
from ropevit.tasks.training.first_batches import SIDES, DrawsBatches
from ropevit.tasks.training.metrics_log import read_metrics
from ropevit.weights.errors import WeightsError
from tasks.detect.generated import small_training, write_images

#: For what is not about what is learned: as small as can be.
TINY = {"width": 16, "depth": 1, "heads": 1, "patch_size": 16, "window": 2}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def coco_root(tmp_path):
    return write_images(tmp_path / "coco")


@pytest.fixture
def task(coco_root, tmp_path):
    """Return a function that makes the task of a training."""
    made = []

    def make(config=None):
        config = config or small_training(coco_root, tmp_path / "run", model=TINY)
        accelerator = make_accelerator(config.run)
        made.append(accelerator)
        sources = open_coco(coco_root, "train"), open_coco(coco_root, "val", keep_empty=True)
        return Detection(config, *sources, accelerator, Communicator())

    yield make
    shutdown()


def losses(folder):
    return [line["loss"] for line in read_metrics(folder) if "loss" in line]


@pytest.mark.full
def test_training_overfits_six_images_and_the_saved_detector_detects_the_same(coco_root, tmp_path, task):
    config = small_training(coco_root, tmp_path / "run", steps=60)
    config = replace(config, optim=replace(config.optim, lr=2e-3))
    scores = train(config)
    assert scores["AP"] > 50
    found = losses(tmp_path / "run")
    assert sum(found[-5:]) < 0.5 * sum(found[:5])
    model, info = load_detector(tmp_path / "run" / "model.safetensors")
    assert info.config == config.model
    assert info.classes == ["disc", "square", "triangle"]
    assert (info.metadata["category_ids"], info.metadata["step"]) == ([1, 3, 90], 60)
    assert task(config).evaluate(model.eval(), lambda _: None) == scores


def test_resumed_training_has_the_same_losses(coco_root, tmp_path):
    train(small_training(coco_root, tmp_path / "whole", model=TINY))

    def stop(event):
        if isinstance(event, StepDone) and event.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after step 3"):
        train(small_training(coco_root, tmp_path / "parts", model=TINY), stop)
    train(small_training(coco_root, tmp_path / "parts", model=TINY, resume=True))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(set(losses(tmp_path / "whole"))) == 6
    weights = [load_detector(tmp_path / name / "model.safetensors")[0].state_dict() for name in ("parts", "whole")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_detection_task_implements_the_interface_of_the_engine(task):
    assert isinstance(task(), Task)


def test_the_picture_of_a_batch_has_the_boxes_of_its_objects(task):
    made = task()
    assert isinstance(made, DrawsBatches)
    batch = next(made.batches(0, 1))
    drawn = made.draw_batch(batch, 0, 2)
    assert len(drawn.tiles) == 2
    for tile, target, (height, width) in zip(drawn.tiles, batch.targets, batch.sizes, strict=False):
        assert max(tile.image.size) == SIDES[1]
        scale = tile.image.width / width
        left, top, right, bottom = (
            box_cxcywh_to_xyxy(target.boxes[0]) * torch.tensor([width, height] * 2) * scale
        ).tolist()
        found = tile.image.getpixel((round(left) + 1, round((top + bottom) / 2)))
        assert found == class_color(int(target.labels[0]))
        assert left < right


def test_batch_depends_on_seed_and_step_only(coco_root):
    source = open_coco(coco_root, "train")
    transform = train_transform(
        ScaleConfig(short_edge_lengths=(40, 48, 64), max_size=90, pre_crop_edge_lengths=(60,), test_size=64)
    )
    order = TrainOrder(6, 3, seed=4)
    every = list(train_batches(source, transform, order, 0, 4, workers=0))
    torch.manual_seed(99)
    for batch, again in zip(every[2:], train_batches(source, transform, order, 2, 4, workers=0), strict=True):
        assert torch.equal(batch.images, again.images)
        assert (batch.sizes, batch.ids) == (again.sizes, again.ids)
        assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(batch.targets, again.targets, strict=True))
    assert len({size for batch in every for size in batch.sizes}) > 4, "sizes are drawn for each image"


def test_images_are_padded_at_bottom_right_to_multiples_of_32_with_boxes_in_place(coco_root, task):
    source = open_coco(coco_root, "val", keep_empty=True)
    config = ScaleConfig(short_edge_lengths=(50,), max_size=70, pre_crop_edge_lengths=(), flip=1.0, test_size=50)
    reader = train_reader(source, train_transform(config))
    batch = reader.__getitems__(TrainOrder(6, 6, seed=0).batch(0))
    assert all(side % 32 == 0 for side in batch.images.shape[2:])
    assert max(h for h, _ in batch.sizes) > batch.images.shape[2] - 32
    made = task()
    pixels = normalize(batch, made.mean, made.std)
    for image, raw, (h, w), target in zip(pixels, batch.images, batch.sizes, batch.targets, strict=True):
        assert not image[:, h:].any()
        assert not image[:, :, w:].any()
        assert image[:, :h, :w].all()
        for left, top, right, bottom in (
            (box_cxcywh_to_xyxy(target.boxes) * torch.tensor([w, h, w, h])).round().int().tolist()
        ):
            inside = raw[:, (top + 3 * bottom) // 4, (left + right) // 2].int()
            assert inside.max() - inside.min() > 60, "a colored shape on gray ground"
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(pixels[0, :, 5, 5], (batch.images[0, :, 5, 5] / 255 - mean) / std)


def test_unreadable_images_are_skipped_and_named(coco_root, tmp_path):
    source = open_coco(coco_root, "train")
    (coco_root / "train2017" / "000000000017.jpg").write_bytes(b"")
    transform = train_transform(ScaleConfig(short_edge_lengths=(64,), max_size=64, test_size=64))
    batch = train_reader(source, transform).__getitems__(TrainOrder(6, 6, seed=0).batch(0))
    assert batch.unreadable == [1]
    assert sorted(batch.ids) == [7, 27, 27, 37, 47, 57]
    measured = eval_reader(source, transform).__getitems__([0, 1, 2])
    assert (measured.ids, measured.unreadable) == ([7, 27], [1])
    assert eval_reader(source, transform).__getitems__([1]).ids == []
    train(small_training(coco_root, tmp_path / "run", steps=1, model=TINY))
    said = [line["skipped"] for line in read_metrics(tmp_path / "run") if line.get("skipped")]
    assert said == [[f"{source.describe(1)}: cannot identify image file"]]


def test_detections_are_in_original_pixels_and_each_image_is_evaluated_once(task, monkeypatch):
    made = task()
    seen = []
    monkeypatch.setattr(
        "ropevit.tasks.detect.train.average_precision",
        lambda _, rows: seen.append(rows) or CocoScores({"AP": float(len(rows))}, {}),
    )
    torch.manual_seed(0)
    model = Detector(made.config.model, 3).eval()
    made.evaluate(model, lambda _: None)
    (rows,) = seen
    ids, counts = np.unique(rows[:, 0], return_counts=True)
    assert ids.tolist() == [7, 17, 27, 37, 47, 57]
    assert set(counts) == {60}, "20 queries with each of three classes"
    assert set(rows[:, 6]) == {1, 3, 90}
    for index, (image_id, _, height, width) in enumerate(made.test.images):
        own = rows[rows[:, 0] == image_id]
        reach = (own[:, 1:3] + own[:, 3:5]).max(0)
        assert (reach <= [width + 1e-3, height + 1e-3]).all(), index
        assert reach[0] > 0.8 * width, "some box ends near the right edge of the whole image"


def test_every_loss_contributes_to_the_gradients(task):
    made = task()
    torch.manual_seed(0)
    model = Detector(made.config.model, 3)
    outputs = []
    model.register_forward_hook(lambda *parts: outputs.append(parts[-1]))
    made.loss(model, next(made.batches(0, 1)), 0).backward()
    assert outputs[0].groups is not None
    assert len(outputs[0].denoising) == len(outputs[0].layers)
    without = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert without == []


def test_embeddings_and_frequencies_have_no_weight_decay_and_layer_ids_follow_the_classifier():
    model = Detector(replace(find_recipe("detect/dino_smoke").model, position="rope_mixed_ape"), 3)
    names = {name for name, _ in model.named_parameters()}
    kept = model.no_weight_decay()
    assert kept <= names
    assert {"backbone.body.pos_embed", "backbone.body.blocks.0.attn.rope.freqs", "dino.query_embedding.weight"} <= kept
    depth = {name: model.layer_index(name) for name in names}
    assert depth["backbone.body.blocks.1.mlp.fc1.weight"] == depth["backbone.body.blocks.0.mlp.fc1.weight"] + 1
    assert depth["dino.level_embedding"] == depth["backbone.pyramid.levels.0.reduce.0.weight"] == max(depth.values())


@pytest.mark.parametrize("position", ["ape", "rope_axial"])
def test_backbone_is_initialized_from_a_classifier(tmp_path, position):
    config = get_config(
        f"{'' if position == 'ape' else position + '_'}deit_tiny_patch16_LS", width=32, depth=1, heads=2
    )
    classifier = ViT(config)
    path = ropevit.save_model(tmp_path / "classifier.safetensors", classifier)
    size = {"width": 32, "depth": 1, "heads": 2, "patch_size": None, "window": None, "position": position}
    model = init_model(DETECTOR, replace(find_recipe("detect/dino_smoke").model, **size, init=str(path)), list("abc"))
    assert torch.equal(model.backbone.body.blocks[0].mlp.fc1.weight, classifier.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_have_their_names_and_serialize_to_json(name):
    config = find_recipe(name)
    assert config.recipe == name
    foreign = "dinov3" in name
    assert json.loads(json.dumps(config.to_dict()))["model"]["position"] == ("rope_axial" if foreign else "rope_mixed")
    if name != "detect/dino_smoke":
        assert config.model.init_source().startswith(("rope_mixed", "swin_rope_mixed", "vit_base_patch16_dinov3_qkvb"))


def test_inconsistent_options_and_data_are_refused(coco_root, tmp_path):
    with pytest.raises(ValueError, match="no recipe named 'detect/yolo'; choose one of detect/dino_vitdet_base"):
        find_recipe("detect/yolo")
    with pytest.raises(ValueError, match=r"got fsdp=True; detectors do not support FSDP"):
        small_training(coco_root, tmp_path, fsdp=True)
    with pytest.raises(ValueError, match="has no published weights; give a checkpoint as init"):
        small_training(coco_root, tmp_path, model={"init": "published"})
    with pytest.raises(ValueError, match=r"short_edge_lengths=\(900,\).*max_size=64"):
        ScaleConfig(short_edge_lengths=(900,), max_size=64)
    path = coco_root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    for wrong, message in (({"annotations": []}, "has no objects"), ({"categories": []}, None)):
        path.write_text(json.dumps(content | wrong))
        if message:
            with pytest.raises(ValueError, match=message):
                train(small_training(coco_root, tmp_path / "run", model=TINY))
    content["categories"][0]["name"] = "ball"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"list different categories: \[\(1, 'ball'\), \(1, 'disc'\)\]"):
        train(small_training(coco_root, tmp_path / "run", model=TINY))


def test_file_of_another_model_is_refused(tmp_path):
    path = ropevit.save_model(tmp_path / "classifier.safetensors", ropevit.create_model("deit_tiny_patch16_LS"))
    with pytest.raises(WeightsError, match="is not a detector file"):
        load_detector(path)


@pytest.mark.parametrize("name", ["deit_tiny", "swin_tiny"])
def test_image_padded_by_the_caller_gives_the_same_detections(name):
    config = find_recipe("detect/dino_smoke").model
    size = {} if name == "deit_tiny" else dict.fromkeys(("width", "depth", "heads", "patch_size", "window"))
    model = Detector(replace(config, model=name, **size), 3).eval()
    image = torch.randn(1, 3, 100, 150)
    with torch.no_grad():
        alone = model(image, [(100, 150)]).layers[-1]
        padded = model(functional.pad(image, (0, 10, 0, 28)), [(100, 150)]).layers[-1]
    torch.testing.assert_close((alone.logits, alone.boxes), (padded.logits, padded.boxes))


def write_squares(root):
    """Write four images of 64 x 64 pixels with 3, no, 1 and 2 objects."""
    boxes = {0: [(4, 4, 20, 12), (30, 8, 16, 16), (20, 30, 24, 30)], 1: [], 2: [(6, 10, 40, 40)], 3: [(2, 2, 9, 9)] * 2}
    found = [(image, box) for image, each in boxes.items() for box in each]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in boxes],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (image, box) in enumerate(found, 1)
        ],
        "categories": [{"id": 1, "name": "box"}],
    }
    (root / "train2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    for image in boxes:
        Image.effect_noise((64, 64), 90).convert("RGB").save(root / "train2017" / f"{image}.png")
    return open_coco(root, "train", keep_empty=True)


def test_micro_batch_losses_are_divided_by_the_boxes_of_the_whole_step(tmp_path):
    source = write_squares(tmp_path / "squares")
    found = []
    for parts in (1, 2):
        config = small_training(tmp_path, tmp_path / "run", model=TINY, grad_accum_steps=parts)
        dino = replace(config.model.dino, denoising=0)  # what is drawn is drawn part by part
        config = replace(config, batch_size=4, model=replace(config.model, dino=dino, drop_path=0.0))
        task = Detection(config, source, source, make_accelerator(config.run), Communicator())
        torch.manual_seed(0)
        model = Detector(config.model, 1)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn_like(weight))  # heads start with zeros
        step = list(task.batches(0, 1))
        assert [batch.objects for batch in step] == [6] * parts
        loss = sum(task.loss(model, batch, 0) for batch in step) / parts
        loss.backward()
        found.append((loss.item(), *(weight.grad.norm().item() for weight in model.parameters())))
        shutdown()
    assert found[1] == pytest.approx(found[0], rel=1e-3, abs=1e-4)
