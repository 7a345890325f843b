"""Invalid options and images raise a one-line error; unusual valid ones can be trained with."""

import pytest
import torch
import tyro
from torchvision import tv_tensors

from ropevit.tasks.detect.augment import ShortestSize
from ropevit.tasks.detect.model import DetectorConfig
from ropevit.tasks.detect.neck import Neck
from ropevit.tasks.segment.config import Mask2FormerConfig
from ropevit.tasks.segment.mask2former import Mask2Former
from ropevit.tasks.segment.model import SegmenterConfig
from ropevit.tasks.training.config import RunConfig
from tasks.detect.small import small_config
from tasks.segment.small import small_swin

ALONE = "1 x 1.* for width=32, .*over single values; use larger images, or a width of 64"


@pytest.mark.parametrize("images", [1, 3])
def test_dino_refuses_feature_maps_of_one_value_per_group(images):
    neck = Neck(small_config(levels=1), (8,))
    with pytest.raises(ValueError, match=ALONE):
        neck([torch.randn(images, 8, 1, 1)])
    assert neck([torch.randn(images, 8, 1, 2)])[0].isfinite().all()


def test_mask2former_refuses_feature_maps_of_one_value_per_group():
    sizes = {"queries": 4, "heads": 2, "encoder_layers": 1, "encoder_mlp_width": 32, "decoder_layers": 1}
    model = Mask2Former(small_swin(), Mask2FormerConfig(width=32, decoder_mlp_width=32, **sizes))
    with pytest.raises(ValueError, match=ALONE):
        model(torch.randn(2, 3, 32, 32))


def test_a_segmenter_needs_one_block_for_each_feature_map():
    with pytest.raises(ValueError, match="got depth=3; expected at least 4 blocks"):
        SegmenterConfig(model="deit_tiny", depth=3, init=None)


def test_windows_of_no_tokens_are_refused():
    with pytest.raises(ValueError, match="got window=0"):
        DetectorConfig(model="deit_tiny", window=0, init=None)


@pytest.mark.parametrize(
    ("size", "longest", "wanted"), [((1, 90), 30, (1, 30)), ((60, 90), 30, (20, 30)), ((6, 9), None, (64, 96))]
)
def test_the_narrowest_image_keeps_a_pixel(size, longest, wanted):
    boxes = tv_tensors.BoundingBoxes([[0.0, 0.0, size[1], size[0]]], format="XYXY", canvas_size=size)
    image, target = ShortestSize((64,), longest)(torch.zeros(3, *size), {"boxes": boxes, "other": 1})
    assert image.shape[1:] == wanted
    assert target["boxes"].canvas_size == wanted
    assert target["boxes"][0].tolist() == [0, 0, wanted[1], wanted[0]]
    assert target["other"] == 1


def test_sizes_are_drawn_as_torchvision_draws_them_but_rounded_to_the_nearest_pixel():
    from torchvision.transforms import v2

    theirs, ours = v2.RandomShortestSize([20, 30, 40, 50], 70), ShortestSize((20, 30, 40, 50), 70)
    image = torch.rand(3, 37, 53)
    boxes = tv_tensors.BoundingBoxes([[3.0, 5.0, 30.0, 31.0]], format="XYXY", canvas_size=(37, 53))
    for seed in range(6):
        found = []
        for transform in (theirs, ours):
            torch.manual_seed(seed)
            found.append(transform(image, {"boxes": boxes})[0].shape[1:])
        floored, rounded = found
        assert all(0 <= ours - theirs <= 1 for theirs, ours in zip(floored, rounded, strict=True))
        assert rounded[1] == round(53 * min(rounded[0] / 37, 70 / 53))


@pytest.mark.parametrize("field", ["log_interval", "val_interval", "save_interval"])
def test_an_interval_of_no_steps_is_refused_by_the_name_of_its_option(field):
    with pytest.raises(ValueError, match=f"got {field}=0; expected at least 1"):
        RunConfig(**{field: 0})
    config = tyro.cli(RunConfig, args=[f"--{field.replace('_', '-')}", "3"])
    assert getattr(config, field) == 3
