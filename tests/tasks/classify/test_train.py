from dataclasses import replace

import pytest
import torch
from PIL import Image

from ropevit.data.loading import Batch
from ropevit.data.sources import open_source
from ropevit.tasks.classify import train as train_module
from ropevit.tasks.classify.recipes import find_recipe
from ropevit.tasks.classify.score import tally
from ropevit.tasks.classify.train import Classification, make_criterion, make_mixing, train
from ropevit.tasks.distributed import Communicator, make_accelerator, shutdown
from ropevit.tasks.training.events import Notice, TrainStarted
from ropevit.tasks.training.metrics_log import read_metrics
from ropevit.weights import load_model
from synchronizations import CountSynchronizations, on_host


def config_of(path, **changes):
    """Return a training on a folder of images: two steps an epoch."""
    config = find_recipe("fashion")
    return replace(
        config,
        data=str(path / "images"),
        batch_size=4,
        model=replace(config.model, width=16, depth=1, heads=1, **changes.pop("model", {})),
        optim=replace(config.optim, epochs=2, warmup_epochs=0.5),
        run=replace(config.run, out=path / "run", device="cpu", log_interval=1, **changes),
    )


@pytest.fixture
def folder(tmp_path):
    """Make a folder of images of two classes, nine to train on and four to test on."""
    for split, count in (("train", 9), ("val", 4)):
        for number in range(count):
            file = tmp_path / "images" / split / "ab"[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((40, 30), 50 + number).convert("RGB").save(file)
    return tmp_path


def test_training_on_a_custom_image_folder(folder):
    scores = train(config_of(folder))
    assert scores.keys() == {"top1"}, "of two classes, five guesses always contain the right one"
    _, info = load_model(folder / "run" / "model.safetensors")
    assert info.classes == ["a", "b"]


def test_a_frozen_backbone_keeps_its_weights_and_the_head_learns(folder):
    config = config_of(folder, model={"drop_path": 0.5})
    train(replace(config, run=replace(config.run, out=folder / "first")))
    first = folder / "first" / "model.safetensors"
    started = []
    frozen = replace(config, freeze_backbone=True, model=replace(config.model, init=str(first)))
    train(frozen, lambda event: started.append(event) if isinstance(event, TrainStarted) else None)
    model, info = load_model(folder / "run" / "model.safetensors")
    assert info.config.drop_path == 0
    before, after = load_model(first)[0].state_dict(), model.state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"head.weight", "head.bias"}
    assert started[0].trainable == sum(parameter.numel() for parameter in model.head.parameters())
    assert started[0].parameters == sum(parameter.numel() for parameter in model.parameters())
    with pytest.raises(ValueError, match="freeze_backbone=True without initial weights"):
        replace(config, freeze_backbone=True)


def test_an_unreadable_training_image_is_skipped_and_listed(folder):
    bad = folder / "images" / "train" / "a" / "2.png"
    bad.write_bytes(b"")
    said = []
    train(config_of(folder), lambda event: said.append(event.message) if isinstance(event, Notice) else None)
    assert any(str(bad) in message for message in said)
    lines = [line for line in read_metrics(folder / "run") if line.get("skipped")]
    assert all(line["skipped"] == [f"{bad}: cannot identify image file"] for line in lines)
    assert len(lines) in (1, 2)  # an epoch leaves one image over, which may be this one


def test_an_unreadable_test_image_is_listed_at_every_evaluation(folder):
    bad = folder / "images" / "val" / "a" / "2.png"
    bad.write_bytes(b"")
    said = []
    train(config_of(folder), lambda event: said.append(event.message) if isinstance(event, Notice) else None)
    lines = [(line["step"], "top1" in line) for line in read_metrics(folder / "run") if line.get("skipped")]
    assert lines == [(2, True), (4, True)]
    assert said == [f"skipped {bad}: cannot identify image file"] * 2


def test_images_and_labels_are_brought_to_the_device_without_waiting_for_it(folder, monkeypatch):
    config = config_of(folder)
    accelerator = make_accelerator(config.run)
    source = open_source(config.data, "train")
    task = Classification(config, source, source, accelerator, Communicator())
    batch, brought = next(task.batches(0, 1)), []
    copy = train_module.to_device
    monkeypatch.setattr(train_module, "to_device", lambda *given: brought.append(given[0]) or copy(*given))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(2))
    with CountSynchronizations() as counted:
        task.loss(model, on_host(batch), 0)
    assert [id(each) for each in brought] == [id(batch.images), id(batch.labels)]
    assert counted.found == []
    shutdown()


def test_test_images_of_other_classes_are_refused(folder):
    (folder / "images" / "val" / "b").rename(folder / "images" / "val" / "c")
    with pytest.raises(ValueError, match="found b, c in only one of images/train and images/val"):
        train(config_of(folder))


def test_init_from_loads_weights_and_keeps_a_new_head(folder):
    train(config_of(folder))
    first, _ = load_model(folder / "run" / "model.safetensors")
    other = config_of(folder, model={"init": str(folder / "run" / "model.safetensors")}, max_steps=1)
    other = replace(other, optim=replace(other.optim, warmup_lr=0.0), run=replace(other.run, out=folder / "second"))
    train(other)  # one step at a learning rate of 0
    second, _ = load_model(folder / "second" / "best.safetensors")
    torch.testing.assert_close(second.blocks[0].mlp.fc1.weight, first.blocks[0].mlp.fc1.weight)


def test_a_batch_larger_than_the_data_set_is_refused(folder):
    with pytest.raises(ValueError, match="expected no batch larger than the set"):
        train(replace(config_of(folder), batch_size=64))


def test_binary_targets_are_one_wherever_a_mixed_image_shows_a_class():
    config = find_recipe("deit3_small")
    torch.manual_seed(0)
    _, targets = make_mixing(config, 5)(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
    assert (targets > 0).sum(1).tolist() == [2, 2, 2, 2]
    logits = torch.randn(4, 5)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, (targets > 0).float())
    torch.testing.assert_close(make_criterion(config)(logits, targets), wanted)


def test_without_mixing_targets_are_the_labels_smoothed():
    config = find_recipe("swin_tiny")
    config = replace(config, augment=replace(config.augment, mixup=0.0, cutmix=0.0))
    images = torch.rand(2, 3, 8, 8)
    same, targets = make_mixing(config, 4)(images, torch.tensor([0, 3]))
    assert same is images
    torch.testing.assert_close(targets, torch.tensor([[0.925, 0.025, 0.025, 0.025], [0.025, 0.025, 0.025, 0.925]]))
    logits = torch.randn(2, 4)
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3]), label_smoothing=0.1)
    torch.testing.assert_close(make_criterion(config)(logits, targets), wanted)


def test_correct_predictions_are_counted_by_class():
    labels = torch.tensor([0, 1, 2, 6, 6])
    logits = torch.zeros(5, 7)
    logits[0, 0] = 1  # right
    logits[1, :] = torch.tensor([6, 1, 5, 4, 3, 0, 2.0])  # the sixth guess is right
    logits[2, :] = torch.tensor([6, 5, 1.5, 4, 3, 0, 1])  # the fifth guess is right
    logits[3, 6] = 1  # right
    logits[4, :] = torch.tensor([6, 5, 4, 3, 2, 1, 0.0])  # wrong
    parts = [Batch(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), labels[:3], [])]
    parts.append(Batch(torch.empty(0, 3, 0, 0, dtype=torch.uint8), labels[:0], [4]))  # nothing could be read
    parts.append(Batch(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), labels[3:], []))
    answers = iter([logits[:3], logits[3:]])
    seen = []
    result = tally(lambda _: next(answers), parts, 7, Communicator(), seen.append)
    assert result.images.tolist() == [1, 1, 1, 0, 0, 0, 2]
    assert result.top1.tolist() == [1, 0, 0, 0, 0, 0, 1]
    assert result.top5.tolist() == [1, 0, 1, 0, 0, 0, 1]
    assert result.scores() == {"top1": 40.0, "top5": 60.0}
    assert seen == [3, 5]


def test_a_process_without_test_images_takes_part_in_every_forward_pass():
    labels, none = torch.tensor([1]), torch.empty(0, 3, 0, 0, dtype=torch.uint8)
    parts = [Batch(none, labels[:0], [4]), Batch(torch.ones(1, 3, 2, 2, dtype=torch.uint8), labels, [])]
    seen = []

    def logits_of(images):
        seen.append(int(images.sum()))
        return torch.tensor([[0.0, 1.0]])

    channel = Communicator()
    rounds = iter([1, 1, 1, 0])  # another process has a batch more
    channel.all_reduce_max = lambda _: next(rounds)
    blank = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    assert tally(logits_of, parts, 2, channel, lambda _: None, blank=blank).scores()["top1"] == 100.0
    assert seen == [0, 12, 0]


def test_pixels_are_normalized_as_imagenet_is(small):
    config = small()
    accelerator = make_accelerator(config.run)
    from ropevit.tasks.classify import train as module

    source = module.open_source("fashion", "train")
    task = Classification(config, source, source, accelerator, Communicator())
    white = task.normalize(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    wanted = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(white[0, :, 0, 0], wanted)
    shutdown()
