import json

import pytest
import torch

from ropevit.tasks.dense.set_prediction import mean_over_ranks
from ropevit.tasks.detect.boxes import Matching, Predictions
from ropevit.tasks.detect.criterion import dino_losses, set_losses
from tasks.detect import ranks
from tasks.detect.small import objects, small_config, small_detector, small_maps


@pytest.fixture(scope="module")
def seen(run_command, tmp_path_factory):
    """Let two processes train together, one without objects."""
    directory = tmp_path_factory.mktemp("ranks")
    result = run_command(directory, [directory], script=ranks.__file__)
    assert result.code == 0, result.errors[-3000:]
    return [json.loads((directory / f"{rank}.json").read_text()) for rank in range(2)]


def test_losses_are_divided_by_the_mean_number_of_boxes_over_processes(seen):
    assert [each["three and one"] for each in seen] == [2.0, 2.0]
    assert [each["none"] for each in seen] == [1.0, 1.0]


def test_two_processes_one_without_objects_equal_one_process_with_all_images(seen):
    alone, losses = ranks.norms(0, [0, 1])
    for name, value in losses.items():
        assert sum(each["losses"][name] for each in seen) / 2 == pytest.approx(value, rel=1e-4, abs=1e-6)
    for each in seen:
        assert list(each["losses"]) == list(losses)
        assert each["norms"] == pytest.approx(alone, rel=1e-3, abs=1e-6)


def test_processes_with_and_without_denoising_agree_on_losses_and_gradients(seen):
    assert list(seen[0]["noisy losses"]) == list(seen[1]["noisy losses"]) == list(seen[0]["losses"])
    assert seen[0]["noisy norms"] == seen[1]["noisy norms"]


def test_single_process_divides_by_its_own_boxes():
    assert [mean_over_ranks(count, torch.device("cpu")).item() for count in (0, 1, 4)] == [1.0, 1.0, 4.0]


def test_every_layer_the_encoder_and_denoising_have_losses():
    model = small_detector(decoder_layers=3)
    for targets in ([objects(1), objects(2, 3)], [objects(), objects()]):
        losses = dino_losses(model(small_maps(), targets=targets), targets, model.config)
        kinds = ["", "_0", "_1", "_enc", "_dn_0", "_dn_1", "_dn"]
        assert list(losses) == [f"loss_{name}{kind}" for kind in kinds for name in ("class", "bbox", "giou")]
        noisy = [value.item() for name, value in losses.items() if "_dn" in name]
        assert all(noisy) == any(noisy) == bool(len(targets[0].labels))


def test_losses_of_perfect_predictions_are_0_and_others_equal_those_by_hand():
    target, config = objects(2), small_config()
    logits = torch.full((1, 2, 5), -30.0)
    logits[0, 1, 2] = 30
    boxes = torch.stack([torch.full((4,), 0.5), target.boxes[0]])[None]
    matching = Matching(torch.tensor([0]), torch.tensor([1]), torch.tensor([0]))
    losses = set_losses(Predictions(logits, boxes), target, matching, torch.tensor(1.0), config)
    for value in losses.values():
        torch.testing.assert_close(value, torch.tensor(0.0), rtol=0, atol=1e-5)
    logits[0, 1, 2] = 0
    boxes[0, 1, 0] += 0.1
    losses = set_losses(Predictions(logits, boxes), target, matching, torch.tensor(4.0), config)
    width = target.boxes[0, 2].item()
    assert losses["class"].item() == pytest.approx(0.25 * 0.25 * 0.6931472 / 4, rel=1e-4)
    assert losses["bbox"].item() == pytest.approx(5 * 0.1 / 4, rel=1e-4)
    assert losses["giou"].item() == pytest.approx(2 * (1 - (width - 0.1) / (width + 0.1)) / 4, rel=1e-4)


def test_denoising_losses_are_also_divided_by_the_number_of_groups():
    model, targets = small_detector(denoising=6, label_noise=0.0, box_noise=0.0), [objects(1), objects(2, 3)]
    output = model(small_maps(), targets=targets)
    losses = dino_losses(output, targets, model.config)
    distance = 0.0
    for image, target in enumerate(targets):
        for group in range(3):
            for number, box in enumerate(target.boxes):
                distance += (output.denoising[-1].boxes[image, 4 * group + number] - box).abs().sum().item()
    assert losses["loss_bbox_dn"].item() == pytest.approx(5 * distance / (3 * 3), rel=1e-4)
