import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from ropevit.kernels import window_attention, windows
from ropevit.kernels.windows import (
    cached_mask,
    clear_masks,
    make_mask,
    window_mask,
    window_partition,
    window_reverse,
    window_shift,
)
from ropevit.rope import mixed_frequencies, rotate

GRIDS = [(8, 8, 4), (8, 12, 4), (5, 9, 4), (3, 10, 4), (2, 3, 4), (7, 14, 7), (6, 5, 1), (9, 4, 3), (11, 11, 5)]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("h", "w", "window"), GRIDS)
def test_joining_windows_undoes_cutting_them(h, w, window):
    x, half = torch.randn(2, h, w, 3), window // 2
    for shift in {(0, 0), (half, half), (half, 0), window_shift(h, w, window)}:
        cut = window_partition(x, window, shift)
        assert cut.shape == (2 * -(-h // window) * -(-w // window), window**2, 3)
        assert torch.equal(window_reverse(cut, h, w, window, shift), x)


def test_windows_and_their_tokens_are_row_major():
    x = torch.arange(24.0).view(1, 4, 6, 1)
    assert window_partition(x, 2, (0, 0))[1].flatten().tolist() == [2, 3, 8, 9]
    assert window_partition(x, 2, (1, 1))[0].flatten().tolist() == [7, 8, 13, 14]
    assert window_partition(x, 2, (0, 0))[3].flatten().tolist() == [12, 13, 18, 19]


@pytest.mark.parametrize(("h", "w", "window"), GRIDS)
def test_a_token_sees_its_window_of_the_image_and_never_the_padding(h, w, window):
    """Also where one window spans a side, and for any shift: windows are those of a plane that does not wrap around."""
    rows, columns = h + -h % window, w + -w % window
    y, x = (place.flatten() for place in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    for dy, dx in itertools.product({0, 1 % window, window // 2, window - 1}, repeat=2):
        order = window_partition(torch.arange(float(rows * columns)).view(1, rows, columns, 1), window, (dy, dx))
        order = order.squeeze(-1).long()
        piece = (y - dy).div(window, rounding_mode="floor") * 100 + (x - dx).div(window, rounding_mode="floor")
        real, piece = ((y < h) & (x < w))[order], piece[order]
        expected = (piece[:, :, None] == piece[:, None]) & real[:, None] | ~real[:, :, None]
        assert torch.equal(make_mask(h, w, window, (dy, dx), CPU), expected)


@pytest.mark.parametrize(("h", "w"), [(3, 9), (4, 4), (8, 5)])
@pytest.mark.parametrize("shift", [(0, 0), (2, 2), (1, 3), (0, 2)])
def test_window_attention_is_attention_among_the_tokens_of_each_piece(h, w, shift):
    window, channels = 4, 8
    qkv, frequencies = torch.randn(1, h, w, 3, 1, channels).double(), mixed_frequencies(channels, 1).double()
    bias = torch.randn(1, window**2, window**2).double()
    places = list(itertools.product(range(h), range(w)))
    piece = {(y, x): ((y - shift[0]) // window, (x - shift[1]) // window) for y, x in places}
    index = {(y, x): (y - shift[0]) % window * window + (x - shift[1]) % window for y, x in places}
    at = torch.tensor([[(x - shift[1]) % window, (y - shift[0]) % window] for y, x in places]).double()
    q, k, v = qkv.flatten(1, 2).permute(2, 0, 3, 1, 4)
    q, k = rotate(q, k, at, frequencies)
    sees = torch.tensor([[piece[a] == piece[b] for b in places] for a in places])
    added = torch.stack([torch.stack([bias[0, index[a], index[b]] for b in places]) for a in places])
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=added.masked_fill(~sees, float("-inf")))
    found = window_attention(qkv, window, shift, frequencies, bias)
    torch.testing.assert_close(found, expected.transpose(1, 2).unflatten(1, (h, w)))


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


def test_masks_are_kept_up_to_a_number_of_bytes_the_latest_used_first(monkeypatch):
    first, second, third = ((8, 4 * columns, 4, (2, 2), CPU) for columns in (2, 3, 4))
    clear_masks()
    kept = cached_mask(*first), cached_mask(*second)
    monkeypatch.setattr(windows, "MASK_BYTES", sum(mask.nbytes for mask in kept) + 1)
    assert cached_mask(*first) is kept[0]
    cached_mask(*third)  # has no room beside both
    assert cached_mask(*first) is not kept[0]
    monkeypatch.setattr(windows, "MASK_BYTES", max(mask.nbytes for mask in kept) - 1)
    once = cached_mask(*first)
    assert cached_mask(*second) is not cached_mask(*second)  # too large by itself
    assert cached_mask(*first) is once  # and takes no room from others
    assert torch.equal(once, kept[0])


def test_masks_are_kept_by_several_threads_at_once(monkeypatch):
    keys = [(8, 4 * columns, 4, (2, 2), CPU) for columns in range(2, 8)]
    monkeypatch.setattr(windows, "MASK_BYTES", 3 * cached_mask(*keys[-1]).nbytes)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda key: (key, cached_mask(*key)), keys * 50))
    assert all(torch.equal(mask, make_mask(*key)) for key, mask in found)


def test_no_mask_of_a_cuda_graph_capture_is_kept(monkeypatch):
    given = (9, 13, 4, (2, 2), torch.device("cuda"))
    for captured in (False, True):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda captured=captured: captured)
        with FakeTensorMode():
            assert (window_mask(*given) is window_mask(*given)) is not captured


def test_a_mask_made_in_one_mode_is_of_use_in_every_other():
    given = (9, 13, 4, (2, 2), CPU)
    truth, layer = make_mask(*given), torch.nn.Linear(1, 1)
    for enter in (torch.inference_mode, FakeTensorMode, torch.no_grad):
        clear_masks()
        with enter():
            window_mask(*given)
        mask = window_mask(*given)
        assert type(mask) is torch.Tensor
        assert torch.equal(mask, truth)
        (layer(torch.ones(1)) * mask.view(-1)).sum().backward()  # saves the mask for the backward pass
