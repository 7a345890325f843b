"""Features and classes of patches, and the classifier that is fitted to them."""

import numpy as np
import pytest
import torch
from PIL import Image

from ropevit.data.ade import IGNORED
from ropevit.models import ViT, ViTConfig
from ropevit.tasks.probe.patch_probe import hold_out_images, patch_iou
from ropevit.tasks.probe.patches import (
    PatchFeatures,
    TrainView,
    feature_map,
    patch_labels,
    patch_stride,
    some_patches,
    training_patches,
)

MODEL = {"position": "rope_mixed", "width": 16, "depth": 1, "heads": 2, "patch_size": 4, "img_size": (8, 8)}


def test_a_patch_has_the_class_of_most_of_its_labeled_pixels():
    labels = torch.tensor([[1, 1, 0, 0, 2], [1, 0, 255, 255, 2], [255, 255, 255, 0, 255]], dtype=torch.uint8)
    assert patch_labels(labels, 2, 3).tolist() == [[1, 0, 2], [IGNORED, 0, IGNORED]]


def test_training_patches_are_those_of_the_map_with_their_labels():
    labels = torch.zeros(6, 8, dtype=torch.uint8)
    labels[:, 4:] = 1
    labels[4:, :4] = IGNORED
    pixels = torch.arange(3 * 6 * 8).view(3, 6, 8).to(torch.uint8)
    seen = []

    def embed(images):  # the mean of each patch, of whole patches
        seen.append(tuple(images.shape[2:]))
        padded = torch.nn.functional.pad(images.float(), (0, -images.shape[3] % 4, 0, -images.shape[2] % 4))
        return torch.nn.functional.avg_pool2d(padded, 4)

    whole = training_patches(embed, (pixels, labels), 4, 2, None)
    assert whole.labels.tolist() == [0, 1, 1]
    torch.testing.assert_close(whole.values[1], pixels[:, :4, 4:].float().mean((1, 2)))
    tiles = training_patches(embed, (pixels, labels), 4, 2, 4)
    assert seen == [(6, 8), (4, 4), (4, 4), (4, 4), (4, 4)]  # the last two overlap the first ones by two rows
    assert tiles.labels.tolist() == [0, 1, 0, 1]


def test_some_patches_keep_every_class():
    labels = torch.tensor([0] * 50 + [1])
    some = some_patches(PatchFeatures(torch.arange(51.0)[:, None], labels), 5, "key")
    assert some.labels.tolist() == [0, 0, 0, 0, 1]
    assert labels[some.values[:, 0].long()].tolist() == some.labels.tolist()


def test_images_and_masks_are_resized_together():
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, 10:] = 200
    image, labels = TrainView(20)(Image.fromarray(pixels), (pixels[..., 0] > 0).astype(np.uint8))
    assert image.shape == (3, 20, 40)
    torch.testing.assert_close((image[0] > 100).to(torch.uint8), labels)
    small, few = TrainView(5, first=20)(Image.fromarray(pixels), (pixels[..., 0] > 0).astype(np.uint8))
    assert (tuple(small.shape), tuple(few.shape)) == ((3, 5, 10), (5, 10))


@pytest.mark.parametrize("size", [(8, 8), (7, 13)])
def test_the_map_covers_the_image_after_the_final_norm(size):
    torch.manual_seed(0)
    model, images = ViT(ViTConfig(**MODEL, num_classes=0)).eval(), torch.rand(1, 3, *size)
    padded = torch.nn.functional.pad(images, (0, -size[1] % 4, 0, -size[0] % 4))
    assert patch_stride(model) == 4
    torch.testing.assert_close(
        feature_map(model, images, 4), model.forward_intermediates(padded, [-1], norm=True)[0].contiguous()
    )


def test_all_patches_of_an_image_are_held_out_together():
    held = hold_out_images([3, 1, 2, 4, 5], 0)
    parts = held.split([3, 1, 2, 4, 5])
    assert [len(set(part.tolist())) for part in parts] == [1] * 5
    assert sum(bool(part[0]) for part in parts) == 1
    assert any(not torch.equal(held, hold_out_images([3, 1, 2, 4, 5], seed)) for seed in range(1, 5))


def test_the_iou_of_patches_is_over_their_classes():
    assert patch_iou(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 5) == pytest.approx(50)
