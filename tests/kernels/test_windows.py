import itertools

import pytest
import torch

from ropevit.kernels.windows import cached_mask, from_windows, make_mask, to_windows, window_mask, window_shift

GRIDS = [(8, 8, 4), (8, 12, 4), (5, 9, 4), (3, 10, 4), (2, 3, 4), (7, 14, 7), (6, 5, 1), (9, 4, 3), (11, 11, 5)]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("h", "w", "window"), GRIDS)
def test_joining_windows_undoes_cutting_them(h, w, window):
    x, half = torch.randn(2, h, w, 3), window // 2
    for shift in {(0, 0), (half, half), (half, 0), window_shift(h, w, window)}:
        cut = to_windows(x, window, shift)
        assert cut.shape == (2 * -(-h // window) * -(-w // window), window**2, 3)
        assert torch.equal(from_windows(cut, h, w, window, shift), x)


def test_windows_and_their_tokens_are_row_major():
    x = torch.arange(24.0).view(1, 4, 6, 1)
    assert to_windows(x, 2, (0, 0))[1].flatten().tolist() == [2, 3, 8, 9]
    assert to_windows(x, 2, (1, 1))[0].flatten().tolist() == [7, 8, 13, 14]
    assert to_windows(x, 2, (0, 0))[3].flatten().tolist() == [12, 13, 18, 19]


@pytest.mark.parametrize(("h", "w", "window"), GRIDS)
@pytest.mark.parametrize("shifted", [False, True])
def test_a_token_sees_its_window_of_the_image_and_never_the_padding(h, w, window, shifted):
    dy, dx = window_shift(h, w, window) if shifted else (0, 0)
    mask = make_mask(h, w, window, (dy, dx), CPU)
    rows, columns = h + -h % window, w + -w % window
    for index, (top, left) in enumerate(itertools.product(range(0, rows, window), range(0, columns, window))):
        places = [(top + i + dy, left + j + dx) for i, j in itertools.product(range(window), repeat=2)]
        for query, key in itertools.product(range(window**2), repeat=2):
            (y1, x1), (y2, x2) = places[query], places[key]
            wraps = (y1 >= rows) != (y2 >= rows) or (x1 >= columns) != (x2 >= columns)
            real = [y % rows < h and x % columns < w for y, x in (places[query], places[key])]
            assert mask[index, query, key] == (not real[0] or (real[1] and not wraps))


def test_no_mask_where_all_see_all():
    assert window_mask(8, 12, 4, (0, 0), CPU) is None
    assert window_mask(8, 12, 4, (2, 2), CPU) is not None
    assert window_mask(8, 11, 4, (0, 0), CPU) is not None


def test_a_side_of_one_window_is_not_shifted():
    assert window_shift(8, 12, 4) == (2, 2)
    assert window_shift(4, 12, 4) == (0, 2)
    assert window_shift(12, 4, 4) == window_shift(12, 3, 4) == (2, 0)


def test_masks_are_kept_by_everything_they_depend_on():
    keys = [(8, 12, 4, (2, 2), CPU), (12, 8, 4, (2, 2), CPU), (8, 12, 2, (1, 1), CPU), (8, 12, 4, (2, 0), CPU)]
    for key in [*keys, (8, 12, 4, (2, 2), torch.device("meta"))]:
        first = cached_mask(*key)
        assert first is cached_mask(*key)
        assert first.device == key[-1]
        assert first.is_meta or torch.equal(first, make_mask(*key))
