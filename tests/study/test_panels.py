import pytest
import torch

from ropevit.models.vit import ViT
from ropevit.study.panels import PANEL_CLASSES, batches, mean_iou
from ropevit.study.panels.pixels import pixel_logits

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
