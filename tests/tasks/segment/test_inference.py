import weakref
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ropevit.tasks.evaluation.inference_modes import window_spans
from ropevit.tasks.segment import inference
from ropevit.tasks.segment.inference import (
    SLIDE,
    InferenceConfig,
    resize,
    resize_rows,
    score_view,
    segment,
    view_size,
)

SMALL = InferenceConfig(window=12, stride=8)


def coarse(images):
    """Score pixels by what surrounds them, at a quarter of the size: what lies in the window matters."""
    return F.avg_pool2d(images - images.mean((2, 3), keepdim=True), 4, ceil_mode=True)


def pixelwise(images):
    return images * 2 - 1


@pytest.mark.parametrize(("side", "expected"), [(512, [0]), (300, [0]), (683, [0, 171]), (1024, [0, 341, 512])])
def test_windows_cover_a_side_and_end_with_it(side, expected):
    found = list(window_spans(side, 512, 341))
    assert [span.start for span in found] == expected
    assert found[-1].stop == side
    assert all(span.stop - span.start == min(side, 512) for span in found)


@pytest.mark.parametrize("size", [(12, 12), (7, 12), (5, 9)])
def test_one_window_gives_the_result_of_the_whole_image(size):
    images = torch.randn(2, 3, *size)
    whole = score_view(coarse, images, InferenceConfig())
    assert whole.shape == images.shape
    assert torch.equal(score_view(coarse, images, SMALL), whole)


def test_a_pixelwise_model_gives_the_same_result_with_windows_as_whole():
    images = torch.randn(1, 3, 29, 17)
    torch.testing.assert_close(score_view(pixelwise, images, SMALL), pixelwise(images))


def test_scores_are_averaged_where_windows_overlap():
    calls = iter([1.0, 4.0])
    scores = score_view(lambda x: torch.full_like(x, next(calls)), torch.zeros(1, 1, 12, 20), SMALL)
    torch.testing.assert_close(scores[0, 0, 0], torch.tensor([1.0] * 8 + [2.5] * 4 + [4.0] * 8))


def test_scores_are_resized_with_align_corners_false():
    scores = resize(torch.tensor([[[[0.0, 1.0]]]]), (1, 4))
    torch.testing.assert_close(scores[0, 0, 0], torch.tensor([0.0, 0.25, 0.75, 1.0]))


def test_classes_are_predicted_at_the_original_resolution():
    images = F.one_hot(torch.tensor([[[0, 1], [2, 0]]]), 3).permute(0, 3, 1, 2).float()
    found = segment(lambda x: x, [images], (6, 10), InferenceConfig())
    assert found.shape == (1, 6, 10)
    assert [found[0, y, x].item() for y, x in [(0, 0), (0, -1), (-1, 0), (-1, -1)]] == [0, 1, 2, 0]


def test_scores_of_flipped_images_are_flipped_back():
    images = torch.randn(1, 3, 9, 14)
    alone = segment(pixelwise, [images], (9, 14), InferenceConfig())
    assert torch.equal(segment(pixelwise, [images], (9, 14), InferenceConfig(flip=True)), alone)


def test_flipping_makes_a_segmenter_symmetric():
    def leaning(images):  # each pixel is scored by the one to its left
        return images.roll(1, 3)

    images, config = torch.randn(1, 3, 9, 14), InferenceConfig(flip=True)
    found = segment(leaning, [images], (9, 14), config)
    assert torch.equal(segment(leaning, [images.flip(3)], (9, 14), config), found.flip(2))
    assert not torch.equal(segment(leaning, [images], (9, 14), InferenceConfig()), found)


def test_views_are_averaged_as_probabilities_or_as_scores():
    views = [torch.tensor([9.0, 0.0]), torch.tensor([0.0, 2.0]), torch.tensor([0.0, 2.0])]
    views = [view.reshape(1, 2, 1, 1).expand(1, 2, 3, 5) for view in views]
    config = InferenceConfig()
    assert segment(lambda x: x, views, (3, 5), config).unique().tolist() == [1]
    assert segment(lambda x: x, views, (3, 5), replace(config, probabilities=False)).unique().tolist() == [0]


def test_views_have_the_sizes_of_the_published_test():
    assert view_size((683, 512)) == (683, 512)
    assert view_size((1500, 2000)) == (512, 683)
    assert view_size((100, 900)) == (228, 2048)
    assert view_size((512, 683), ratio=1.75) == (896, 1195)


def test_a_stride_larger_than_the_window_and_no_views_are_refused():
    assert (SLIDE.window, SLIDE.stride) == (512, 341)
    with pytest.raises(ValueError, match="skips pixels"):
        InferenceConfig(window=12, stride=13)
    with pytest.raises(ValueError, match="no views"):
        segment(pixelwise, [], (2, 2), SMALL)


@pytest.mark.parametrize("size", [(40, 30), (9, 14), (7, 20), (1, 1), (60, 14)])
def test_resize_rows_equals_rows_of_resize(size):
    scores = torch.randn(2, 5, 9, 14)
    parts = [resize_rows(scores, size, slice(top, min(top + 4, size[0]))) for top in range(0, size[0], 4)]
    torch.testing.assert_close(torch.cat(parts, dim=2), resize(scores, size), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(25, 40), (25, 20)])  # of more pixels than all views together, and of fewer
@pytest.mark.parametrize("probabilities", [True, False])
def test_upsampling_in_strips_gives_the_same_classes(monkeypatch, size, probabilities):
    config = InferenceConfig(flip=True, probabilities=probabilities)
    views = [torch.randn(2, 3, 9, 14), torch.randn(2, 3, 12, 19)]
    scores = [resize(pixelwise(view), size) for view in views]
    wanted = sum(each.softmax(1) if probabilities else each for each in scores).argmax(1)
    for strip in (inference.STRIP, 3 * size[1], 1):
        monkeypatch.setattr(inference, "STRIP", strip)
        assert torch.equal(segment(pixelwise, views, size, config), wanted)
        assert torch.equal(segment(pixelwise, views[:1], size, InferenceConfig()), scores[0].argmax(1))


@pytest.mark.parametrize("strip", [inference.STRIP, 5 * 14])
def test_views_are_summed_one_at_a_time(monkeypatch, strip):
    monkeypatch.setattr(inference, "STRIP", strip)
    made, alive = [], []

    def watched(images):
        alive.append(sum(reference() is not None for reference in made))
        scores = pixelwise(images)
        made.append(weakref.ref(scores))
        return scores

    views = [torch.randn(1, 3, 9 + number, 14) for number in range(6)]
    segment(watched, views, (9, 14), InferenceConfig())
    assert alive == [0, 1, 1, 1, 1, 1]


def test_scores_of_a_large_photo_are_never_held_at_its_resolution(monkeypatch):
    monkeypatch.setattr(inference, "STRIP", 5 * 60)
    shapes, add = [], inference.add_views
    monkeypatch.setattr(inference, "add_views", lambda *rest: shapes.append((total := add(*rest)).shape) or total)
    assert segment(pixelwise, [torch.randn(1, 3, 9, 14)], (41, 60), InferenceConfig(flip=True)).shape == (1, 41, 60)
    assert {tuple(shape[2:]) for shape in shapes} == {(5, 60), (1, 60)}
