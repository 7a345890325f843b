import json
import operator
import os
import signal
from dataclasses import asdict, replace

import pytest
import torch

from marks import by_default
from ropevit.data.ade import IGNORED, open_ade
from ropevit.data.tiny import make_tiny
from ropevit.painting import OPACITY, class_color
from ropevit.tasks.distributed import Communicator, Interrupted, make_accelerator, shutdown
from ropevit.tasks.runs.run_dir import comparable
from ropevit.tasks.segment import train as segment
from ropevit.tasks.segment.inference import InferenceConfig
from ropevit.tasks.segment.mean_iou import confusion
from ropevit.tasks.segment.model import build_segmenter, load_segmenter
from ropevit.tasks.segment.recipes import RECIPES
from ropevit.tasks.segment.train import Segmentation, train
from ropevit.tasks.training.config import RunConfig
from ropevit.tasks.training.engine import Task
from ropevit.tasks.training.events import StepDone
from ropevit.tasks.training.first_batches import SIDES, DrawsBatches
from ropevit.tasks.training.metrics_log import read_metrics
from ropevit.tasks.training.optim import make_optimizer
from tasks.segment.generated import small_training, write_images
from tasks.segment.small import small_mask2former, small_segmenter, small_upernet


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def ade_root(tmp_path):
    return write_images(tmp_path / "ade")


@pytest.fixture
def task(ade_root, tmp_path):
    """Return a function that makes the task of a training."""

    def make(config=None):
        config = config or small_training(ade_root, tmp_path / "run")
        accelerator = make_accelerator(config.run)
        return Segmentation(
            config, open_ade(config.data, "train"), open_ade(config.data, "val"), accelerator, Communicator()
        )

    yield make
    shutdown()


def losses(folder):
    return [line["loss"] for line in read_metrics(folder) if "loss" in line]


@pytest.mark.full
def test_three_images_are_overfitted_and_the_saved_model_has_the_same_scores(ade_root, tmp_path, task):
    config = small_training(ade_root, tmp_path / "run", steps=60)
    plain = {"ratio_range": (1.0, 1.0), "flip": 0.0, "photometric_distortion": False, "cat_max_ratio": 1.0}
    sizes = {"short": 48, "long": 64, "test_short": 48, "test_long": 64}  # images are padded to train, and to measure
    head = replace(config.model.upernet, dropout=0.0, channels=32)
    config = replace(
        config,
        augment=replace(config.augment, **plain, **sizes),
        model=replace(config.model, drop_path=0.0, upernet=head),
        optim=replace(config.optim, lr=1e-2, weight_decay=0.0),
    )
    scores = train(config)
    assert scores["mIoU"] > 80
    assert scores["aAcc"] > scores["mIoU"]
    model, info = load_segmenter(tmp_path / "run" / "model.safetensors")
    assert info.config == config.model
    assert info.classes == ["ground", "disc", "square", "triangle"]
    assert info.metadata["inference"] == asdict(config.inference)
    kept = ("recipe", "crop", "test_short", "test_long", "step")
    assert [info.metadata[name] for name in kept] == ["segment/upernet_smoke", 64, 48, 64, 60]
    assert info.metadata["mean"] == [0.485, 0.456, 0.406]
    assert task(config).evaluate(model.eval(), lambda _: None) == scores


@pytest.mark.full  # by default a detector and a classifier
@pytest.mark.parametrize("head", by_default(["upernet"], ["upernet", "mask2former"]))
def test_an_interrupted_training_resumes_with_the_same_losses(ade_root, tmp_path, head):
    def averaged(name, **changes):
        config = small_training(ade_root, tmp_path / name, head=head, **changes)
        return replace(config, optim=replace(config.optim, ema_decay=0.5))

    train(averaged("whole"))

    def stop(event):
        if isinstance(event, StepDone) and event.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="stopped after step 3"):
        train(averaged("parts"), stop)
    train(averaged("parts", resume=True))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert len(set(losses(tmp_path / "whole"))) == 6
    for file in ("model.safetensors", "model_ema.safetensors"):
        weights = [load_segmenter(tmp_path / name / file)[0].state_dict() for name in ("parts", "whole")]
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_picture_of_a_batch_has_the_colors_of_its_classes_and_no_padding(task):
    made = task()
    assert isinstance(made, DrawsBatches)
    batch = next(made.batches(0, 1))
    drawn = made.draw_batch(batch, 0, 2)
    assert set(drawn.labels) == {int(label) for labels in batch.labels[:2] for label in labels.unique()} - {IGNORED}
    for tile, pixels, labels, (height, width) in zip(
        drawn.tiles, batch.images, batch.labels, batch.sizes, strict=False
    ):
        assert max(tile.image.size) == SIDES[1]
        assert tile.image.width / tile.image.height == pytest.approx(width / height, abs=0.02)
        scale = tile.image.width / width
        blocks = labels[: height - 6, : width - 6].unfold(0, 7, 7).unfold(1, 7, 7).flatten(2)
        for row, column in (blocks == blocks[..., :1]).all(-1).nonzero().tolist():  # inside of one class
            y, x = 7 * row + 3, 7 * column + 3
            label, mean = int(labels[y, x]), pixels[:, y - 1 : y + 2, x - 1 : x + 2].float().mean((1, 2))
            tinted = mean if label == IGNORED else mean.lerp(torch.tensor(class_color(label)).float(), OPACITY)
            found = torch.tensor(tile.image.getpixel((round((x + 0.5) * scale), round((y + 0.5) * scale))))
            assert (found - tinted).abs().max() < 30


@pytest.mark.parametrize("head", ["upernet", "mask2former"])
def test_the_loss_is_the_sum_of_all_losses(ade_root, tmp_path, task, head):
    made = task(small_training(ade_root, tmp_path / "run", head=head))
    assert isinstance(made, Task)
    model = build_segmenter(replace(made.config.model, drop_path=0.0), 4)
    made.loss(model, next(made.batches(0, 1)), 0).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_each_process_evaluates_its_share_of_the_images_at_their_original_size(task):
    made = task()
    model = build_segmenter(made.config.model, 4).eval()
    whole = made.evaluate(model, lambda _: None)["aAcc"]
    shares = []
    for rank in range(2):
        made.accelerator = type("Part", (), {"num_processes": 2, "process_index": rank, "autocast": torch.no_grad})()
        shares.append(made.evaluate(model, lambda _: None)["aAcc"])
    labeled = [(made.test.read(index)[1] != 255).sum() for index in range(3)]
    pixels = labeled[0] + labeled[2], labeled[1]
    assert shares[0] != pytest.approx(shares[1])
    assert sum(map(operator.mul, shares, pixels)) == pytest.approx(whole * sum(labeled))


@pytest.mark.parametrize("make", [small_upernet, small_mask2former])
@torch.no_grad()
def test_scores_in_bfloat16_are_float32_and_the_same_in_training_as_afterwards(make):
    torch.manual_seed(0)
    model, images = make().eval(), torch.randn(1, 3, 70, 96)
    with torch.autocast("cpu", torch.bfloat16):  # as the command that evaluates
        afterwards = model.logits(images)
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        exact = model.logits(images)
    accelerator = make_accelerator(RunConfig(device="cpu", precision="bfloat16"))
    trained = accelerator.unwrap_model(accelerator.prepare_model(model))  # which returns float32, whatever is computed
    with accelerator.autocast():
        during = trained.logits(images)
    shutdown()
    assert during.dtype == afterwards.dtype == torch.float32
    assert torch.equal(during, afterwards)
    assert not torch.equal(afterwards, exact)
    assert (afterwards.bfloat16().float() != afterwards).float().mean() > 0.5  # not rounded at the end either


def test_batches_and_inference_follow_the_config(task, monkeypatch):
    made = task()
    made.config = replace(made.config, inference=InferenceConfig(window=48, stride=32))
    calls = []

    def segment(_scores, views, size, config):
        calls.append((tuple(views[0].shape[2:]), size, config.window))
        return torch.full((1, *size), 1)

    monkeypatch.setattr("ropevit.tasks.segment.confusion_matrix.segment", segment)
    scores = made.evaluate(build_segmenter(made.config.model, 4), lambda _: None)
    sizes = [made.test.read(index)[1].shape for index in range(3)]
    assert [size for _, size, _ in calls] == sizes
    assert [min(view) for view, _, _ in calls] == [64] * 3
    assert {window for _, _, window in calls} == {48}
    truths = [torch.from_numpy(made.test.read(index)[1]) for index in range(3)]
    counts = sum(confusion(torch.full_like(truth, 1).long(), truth, 4) for truth in truths)
    assert scores["aAcc"] == pytest.approx(100 * (counts[1, 1] / counts.sum()).item())


@pytest.mark.parametrize("head", ["upernet", "mask2former"])
def test_embeddings_and_frequencies_have_no_weight_decay_and_the_backbone_its_own_learning_rate(head):
    model = build_segmenter(small_segmenter(head, position="rope_mixed_ape"), 3)
    recipe = RECIPES["segment/upernet_vit_base" if head == "upernet" else "segment/mask2former_swin_tiny"]()
    groups = make_optimizer(model, recipe.optim).param_groups
    names = {name: group for group in groups for name in group["names"]}
    free = {name for name, group in names.items() if not group["weight_decay"]}
    own = {"decoder.queries_features.weight", "decoder.queries_embedder.weight", "pixel_decoder.level_embed"}
    wanted = own if head == "mask2former" else set()
    assert {"backbone.body.pos_embed", "backbone.body.blocks.0.attn.rope.freqs"} | wanted <= free
    assert all(group["weight_decay"] == 0.05 for name, group in names.items() if name not in free)
    scale = names["backbone.body.blocks.0.mlp.fc1.weight"]["lr_scale"]
    assert scale == pytest.approx(0.75**4 if head == "upernet" else 0.1)


@pytest.mark.parametrize(
    ("name", "lr", "layer_decay", "out_indices"),
    [
        ("upernet_vit_small", 5e-5, 0.75, (3, 5, 7, 11)),
        ("upernet_vit_base", 5e-5, 0.75, (3, 5, 7, 11)),
        ("upernet_vit_large", 4e-5, 0.9, (7, 11, 15, 23)),
        ("upernet_vit_base_mmseg", 6e-5, 1.0, (2, 5, 8, 11)),
        ("upernet_vit_large_xcit", 6e-5, 1.0, (7, 11, 15, 23)),
    ],
)
def test_recipes_of_upernet_follow_their_profiles(name, lr, layer_decay, out_indices):
    config = RECIPES[f"segment/{name}"]()
    optim = config.optim
    assert (optim.lr, optim.layer_decay, config.model.backbone_config().out_indices) == (lr, layer_decay, out_indices)
    assert (optim.steps, optim.schedule, optim.power, optim.min_lr) == (160_000, "poly", 1.0, 0.0)
    assert (optim.warmup_steps, optim.warmup_lr) == (1500, pytest.approx(1e-6 * lr))
    assert config.inference.window == (512 if "_mmseg" not in name and "_xcit" not in name else None)


def test_recipes_of_mask2former_are_the_official_ones():
    config = RECIPES["segment/mask2former_swin_base"]()
    optim = config.optim
    assert (optim.lr, optim.backbone_lr_scale, optim.clip_grad, optim.power) == (1e-4, 0.1, 0.01, 0.9)
    assert all(recipe().augment.short_edge_lengths for name, recipe in RECIPES.items() if "mask2former" in name)
    assert config.augment.short_edge_lengths[::15] == (256, 1024)
    assert (config.augment.cat_max_ratio, config.inference.probabilities) == (1.0, False)
    with torch.device("meta"):
        model = build_segmenter(config.model, 150)
    assert (model.config.queries, model.backbone.channels) == (100, (128, 256, 512, 1024))


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_have_their_name_and_convert_to_json(name):
    config = RECIPES[name]()
    assert config.recipe == name
    plain = json.loads(json.dumps(config.to_dict()))
    foreign = {"dinov3": "rope_axial", "eva02": "rope_axial_ape"}
    assert plain["model"]["position"] == next((own for part, own in foreign.items() if part in name), "rope_mixed")
    assert config.freeze_backbone == ("linear" in name or name == "segment/mask2former_dinov3_base")
    assert comparable(plain) != comparable(plain | {"augment": plain["augment"] | {"flip": 0.1}})


def test_invalid_trainings_are_refused(ade_root, tmp_path):
    config = small_training(ade_root, tmp_path / "run")
    with pytest.raises(ValueError, match="got batch_size=1; expected at least 2; the batch norms of UperNet"):
        replace(config, batch_size=1)
    assert replace(small_training(ade_root, tmp_path, head="mask2former"), batch_size=1).batch_size == 1
    with pytest.raises(ValueError, match=r"got fsdp=True; segmenters are not sharded"):
        small_training(ade_root, tmp_path, fsdp=True)
    with pytest.raises(ValueError, match="expected no batch larger"):
        train(replace(config, batch_size=30))
    for labels in (ade_root / "annotations" / "validation").glob("*.png"):
        labels.write_bytes(b"")
    with pytest.raises(ValueError, match=r"ade/val in .* has no labeled pixels; there is nothing to evaluate"):
        train(config)


def test_custom_classes_are_trained_and_labels_out_of_range_raise(tmp_path):
    root = tmp_path / "tiny"
    make_tiny("ade", root)
    (root / "classes.txt").write_text("\n".join(f"thing {number}" for number in range(149)))
    with pytest.raises(ValueError, match="the label 150, expected 1 to 149"):
        train(replace(small_training(root, tmp_path / "run"), batch_size=12))


def test_losses_of_micro_batches_are_divided_by_the_masks_of_the_whole_step(tmp_path, task, monkeypatch):
    root = write_images(tmp_path / "four", scenes=(0, 1, 2, 3))
    config = replace(small_training(root, tmp_path / "run", head="mask2former", grad_accum_steps=2), batch_size=4)
    made, seen, losses = task(config), [], segment.mask_losses

    def watched(output, labels, heads, divisor):
        seen.append(divisor.item())
        return losses(output, labels, heads, divisor)

    monkeypatch.setattr(segment, "mask_losses", watched)
    step = list(made.batches(0, 1))
    masks = sum(len(set(labels.flatten().tolist()) - {255}) for batch in step for labels in batch.labels)
    assert [batch.objects for batch in step] == [masks] * 2
    made.loss(build_segmenter(config.model, 4), step[0], 0)
    assert seen == [pytest.approx(masks / 2)]
