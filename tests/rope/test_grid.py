import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from ropevit.rope import (
    crop_positions,
    grid_positions,
    kept_positions,
    mixed_frequencies,
    packed_positions,
    rotate,
    window_positions,
)


def test_a_grid_is_row_major_with_x_first():
    assert grid_positions(2, 3).tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]]
    assert grid_positions(3).tolist() == [[0], [1], [2]]
    assert grid_positions(2, 1, 2).tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1]]


@pytest.mark.parametrize(("h", "w", "window"), [(4, 6, (2, 3)), (6, 4, (3, 2)), (4, 4, (4, 2))])
def test_windows_hold_the_positions_of_their_tokens(h, w, window):
    windows = window_positions(h, w, window)
    image = grid_positions(h, w).T.view(1, 2, h, w)
    patches = F.unfold(image, window, stride=window)[0].unflatten(0, (2, -1)).permute(2, 1, 0)
    assert torch.equal(windows, patches)


def test_windows_that_do_not_tile_are_refused():
    with pytest.raises(ValueError, match="a grid of 5 x 6 tokens; windows of 2 x 3 do not tile it"):
        window_positions(5, 6, (2, 3))


def test_negative_prefixes_and_windows_are_refused():
    with pytest.raises(ValueError, match="num_prefix_tokens=-1"):
        packed_positions([(2, 2)], -1)
    with pytest.raises(ValueError, match="windows of 0 x 2"):
        window_positions(4, 4, (0, 2))


def test_a_crop_keeps_its_place_in_the_whole_image():
    whole = grid_positions(5, 7).unflatten(0, (5, 7))
    assert torch.equal(crop_positions(1, 2, 3, 4), whole[1:4, 2:6].flatten(0, 1))
    assert crop_positions(0.5, 2, 1, 2, scale=0.5).tolist() == [[2, 0.5], [2.5, 0.5]]


def test_kept_tokens_are_rotated_as_in_the_full_image():
    q, k = torch.randn(2, 2, 3, 15, 8)
    positions, f = grid_positions(3, 5), mixed_frequencies(8, 3)
    keep = torch.stack([torch.randperm(15)[:6] for _ in range(2)])
    pick = keep[:, None, :, None].expand(-1, 3, -1, 8)
    whole, _ = rotate(q, k, positions, f)
    part, _ = rotate(q.gather(2, pick), k.gather(2, pick), kept_positions(positions, keep), f)
    assert torch.equal(whole.gather(2, pick), part)


def test_a_packed_batch_equals_each_image_alone():
    sizes, num_prefix_tokens = [(2, 3), (4, 1), (1, 1)], 2
    positions, image = packed_positions(sizes, num_prefix_tokens)
    q, k = torch.randn(2, 1, 3, len(positions), 8)
    f = mixed_frequencies(8, 3)
    packed, _ = rotate(q, k, positions, f)
    for index, (h, w) in enumerate(sizes):
        own = image == index
        alone, _ = rotate(q[:, :, own], k[:, :, own], grid_positions(h, w), f, num_prefix_tokens)
        assert_close(packed[:, :, own], alone)
    assert packed_positions([])[0].shape == (0, 2)
