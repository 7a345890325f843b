import math
from dataclasses import replace

import pytest
import torch

from ropevit.bench import scale
from ropevit.bench.results import BenchRow
from ropevit.bench.scale_report import draw_growth, growth_tables
from ropevit.bench.shapes import SCALE_SIZES, MixedSizes, ModelSize, ScaleSizes

VIT = ModelSize(name="tiny", width=32, depth=1, heads=2, images=4, pixels=32)
SWIN = ModelSize(name="Swin-T", width=96, depth=12, heads=3, images=1, pixels=56)
SIZES = ScaleSizes((VIT, replace(VIT, pixels=64)), (SWIN,), MixedSizes(VIT, ((32, 32), (48, 32), (16, 64))))
SETTINGS = scale.ScaleSettings(device=torch.device("cpu"), dtype=torch.float32, images=None, choose=lambda _: [False])


@pytest.fixture(scope="module")
def groups():
    return scale.scale_groups(SETTINGS, SIZES)


@pytest.mark.parametrize("place", [0, 3])
def test_every_model_agrees_with_float64(groups, place):
    for entry in groups[place].entries:
        candidate = entry.make()
        assert candidate.check() < 1e-4, entry.label
        assert len(candidate.forward()) == groups[place].images, entry.label


@pytest.mark.full
def test_every_swin_agrees_with_float64(groups):
    for entry in groups[2].entries:
        assert entry.make().check() < 1e-4, entry.label


def test_larger_images_are_fewer_and_checked_at_the_first_size_alone(groups):
    assert [group.images for group in groups] == [4, 1, 1, 3]
    assert [group.pixels for group in groups[:3]] == [32**2, 64**2, 56**2]
    assert groups[1].entries[0].make().check is None


def test_padded_patches_are_those_of_each_image_alone():
    images = [torch.randn(3, 32, 48), torch.randn(3, 16, 32)]
    model = scale._naflexvit(VIT).eval()
    with torch.no_grad():
        together = model(scale.pad_patches(images))
        alone = torch.cat([model(scale.pad_patches([image])) for image in images])
        whole = torch.cat([model(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together, whole)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_swins_images_need_no_padding_and_patches_tile_every_image(device):
    sizes = SCALE_SIZES[device]
    assert all(size.pixels % 224 == 0 for size in sizes.swin)
    assert all(side % 16 == 0 for image in sizes.mixed.images for side in image)
    assert all(size.pixels % 16 == 0 for size in sizes.vit)


def growing_rows():
    """A model whose time per image grows as its pixels, and memory half as fast."""
    return [
        BenchRow(
            level="scale", shape=f"tiny, {side} px", about="", direction=direction, label="ours", library="ours",
            embedding="axial", compiled=False, base="ours", milliseconds=side**2 * images, images=images,
            pixels=side**2, megabytes=None if direction == "inference" else side * images,
        )
        for direction in ("inference", "training step")
        for side, images in ((32, 4), (64, 1))
    ]  # fmt: skip


@pytest.mark.usefixtures("rendered")
def test_tables_divide_by_the_images_and_by_the_first_size(tmp_path):
    lines = growth_tables(growing_rows())
    assert [line for line in lines if line.startswith("###")] == [
        "### tiny, inference: time",
        "### tiny, training step: time",
        "### tiny, training step: memory",
    ]
    assert "| candidate | 32 px | 64 px |" in lines
    assert lines.count("| ours | 1024 (1.0) | 4096 (4.0) |") == 2
    assert "| ours | 32 (1.0) | 64 (2.0) |" in lines
    draw_growth(growing_rows(), {"ours": "#009E73"}, "", tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_one_size_alone_has_no_growth(tmp_path):
    rows = [row for row in growing_rows() if math.isqrt(row.pixels) == 32]
    assert growth_tables(rows) == []
    draw_growth(rows, {}, "", tmp_path / "scale.png")
    assert not (tmp_path / "scale.png").exists()
