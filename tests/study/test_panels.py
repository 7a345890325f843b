from dataclasses import replace

import pytest
import torch

from ropevit.data.crops import resample
from ropevit.data.emoji import load_emoji
from ropevit.models.vit import ViT
from ropevit.study.panels import PANEL_CLASSES, batches, mean_iou
from ropevit.study.panels.pixels import pixel_logits
from ropevit.study.settings import EMOJI

PANELS = sorted(PANEL_CLASSES)


def never():
    """Go on."""


@pytest.mark.parametrize("panel", PANELS)
def test_batches_depend_on_the_seed_and_the_step_alone(make_job, panel):
    ape, mixed = (make_job(panel, embedding).panel for embedding in ("ape", "rope_mixed"))
    torch.rand(3)
    torch.testing.assert_close(ape.batch(0, 5), mixed.batch(0, 5), rtol=0, atol=0)
    for other in (mixed.batch(1, 5), mixed.batch(0, 4)):
        assert not torch.equal(ape.batch(0, 5)[0], other[0])


@pytest.mark.parametrize("panel", PANELS)
def test_a_model_learns_and_is_measured_at_sizes_below_and_above(make_job, panel):
    panel = make_job(panel).panel
    model = ViT(panel.model_config("rope_mixed"))
    panel.loss(model, *panel.batch(0, 0)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        for size in panel.settings.test_sizes:
            assert 0 <= panel.score(model.eval(), size, never) <= 100


@pytest.mark.parametrize("panel", PANELS)
def test_a_score_is_the_same_when_measured_again(make_job, panel):
    panel = make_job(panel).panel
    model = ViT(panel.model_config("ape")).eval()
    with torch.no_grad():
        assert panel.score(model, 12, never) == panel.score(model, 12, never)


def test_zoom_counts_right_answers(make_job):
    panel = make_job("zoom").panel
    model = ViT(panel.model_config("none")).eval()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))  # always says class 1, which is a third of the images
        assert panel.score(model, 8, never) == pytest.approx(100 / 3)


def test_field_labels_go_to_the_pixels_they_belong_to(make_job):
    """Tokens are row-major; outputs of a patch are shuffled label by label, row by row."""
    panel = make_job("field").panel
    model = ViT(panel.model_config("none")).eval()
    labels = len(panel.labels)
    tokens = torch.zeros(1, 6, 16)
    tokens[0, :, 0] = torch.arange(6) * 1000
    model.forward_features = lambda _: tokens
    with torch.no_grad():
        model.head.weight.zero_()[:, 0] = 1
        model.head.bias.copy_(torch.arange(labels * 16.0))
        logits = pixel_logits(model, torch.zeros(1, 1, 8, 12))
    assert logits.shape == (1, labels, 8, 12)
    for token, (row, column) in enumerate([(0, 0), (0, 4), (0, 8), (4, 0), (4, 4), (4, 8)]):
        expected = 1000 * token + torch.arange(32.0, 48).unflatten(0, (4, 4))
        torch.testing.assert_close(logits[0, 2, row : row + 4, column : column + 4], expected)


def test_mean_iou_by_hand_leaves_out_what_never_occurs():
    confusion = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert mean_iou(confusion) == pytest.approx((6 / 9 + 3 / 6) / 2)
    confusion[0, 2] = 1  # predicted where it never occurs: counts as missed
    assert mean_iou(confusion) == pytest.approx((6 / 10 + 3 / 6 + 0) / 3)


@pytest.mark.parametrize(("count", "size"), [(1, 4), (2000, 28), (7, 4096)])
def test_batches_cover_every_image_once(count, size):
    parts = list(batches(count, size, 4))
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(count))


def test_evaluation_can_be_stopped_between_batches(make_job):
    def stop():
        raise InterruptedError

    for name in PANELS:
        panel = make_job(name).panel
        with pytest.raises(InterruptedError):
            panel.score(ViT(panel.model_config("none")), 8, stop)


@pytest.fixture(scope="module")
def emoji():
    return load_emoji("search", groups=("fruit",)), load_emoji("val", groups=("fruit",))


@pytest.mark.parametrize("name", PANELS)
def test_drawings_with_an_alpha_channel_become_color_images(name, emoji):
    panel = PANEL_CLASSES[name](replace(EMOJI[name], batch_size=2), *emoji)
    images, targets = panel.batch(0, 0)
    size = panel.settings.train_size
    assert images.shape == (2, 3, size, size)
    assert ViT(panel.model_config("ape")).config.in_channels == 3
    assert targets.shape == ((2,) if name == "zoom" else (2, size, size))
    assert panel.labels[-1] == "fruit"  # groups, as each thing has one drawing an artist


def test_larger_images_of_zoom_show_detail_and_the_same_scene(emoji):
    """By a fine-detail measure, an image at 4 times the size has far more than its enlarged small version."""
    panel = PANEL_CLASSES["zoom"](EMOJI["zoom"], *emoji)
    some = torch.arange(0, len(panel.test), 3)
    small, large = panel.test_images(some, 32), panel.test_images(some, 128)
    enlarged = resample(small, 128)

    def detail(images):
        return (images - resample(resample(images, 64), 128)).square().mean()

    assert detail(large) > 4 * detail(enlarged)
    torch.testing.assert_close(resample(large, 32), small, rtol=0, atol=40)
    assert (resample(large, 32) - small).abs().mean() < 2
    torch.testing.assert_close(panel.test_images(some[2:3], 128), large[2:3])  # whatever the batch


@pytest.mark.parametrize("size", [96, 144, 192])
def test_no_tile_of_the_training_size_sees_both_marked_items(size, emoji):
    """So tiles give no information about a mark: it has the label of the other item."""
    panel = PANEL_CLASSES["far"](replace(EMOJI["far"], test_canvases=20), *emoji)
    side = panel.settings.train_size
    for _, _, marks in panel.canvases(size):
        for mark in marks:
            rows, columns = mark.nonzero().unbind(1)
            along = rows if rows.max() - rows.min() >= columns.max() - columns.min() else columns
            middle = (along.min() + along.max()) / 2
            gap = along[along > middle].min() - along[along < middle].max()
            assert gap >= side


def test_a_resize_to_the_training_size_makes_items_smaller_than_any_in_training():
    for size in EMOJI["far"].test_sizes[1:]:
        law = EMOJI["far"].canvas
        assert law.item_size * law.jitter * EMOJI["far"].train_size / size < law.item_size / law.jitter
