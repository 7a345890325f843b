"""What training keeps for the backward pass, counted and not measured: bytes of storages, at sizes no test can run."""

import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from ropevit.kernels import native, set_backend
from ropevit.models import ViT, ViTConfig
from ropevit.models.layers import Attention
from ropevit.rope import MixedRope, axial_frequencies, grid_positions

#: Images, heads, channels per head, and the side of the grid: two small ones, and ViT-L/16 at 1024 pixels.
SMALL = [(1, 2, 16, 3), (2, 3, 32, 5)]
LARGE = (8, 16, 64, 64)

needs_kernel = pytest.mark.skipif(not native.available(), reason="no C compiler here")


class Kept:
    """Adds up the storages that autograd keeps, each once."""

    def __init__(self):
        self.sizes, self.alive = {}, []

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        self.sizes[storage._cdata] = storage.nbytes()
        self.alive.append(tensor)  # so that no other storage takes its place
        return tensor

    @property
    def total(self):
        return sum(self.sizes.values())


def layer_keeps(kind, images, heads, channels, side):
    """Count the bytes that one attention layer keeps, fixed or learned frequencies, all in float32."""
    rope = MixedRope(channels, heads) if kind == "mixed" else None
    layer, kept = Attention(heads * channels, heads, rope), Kept()
    x = torch.randn(images, 1 + side**2, heads * channels, requires_grad=True)
    frequencies = axial_frequencies(channels).float() if kind == "axial" else None
    with saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        layer(x, grid_positions(side, side), frequencies)
    return kept.total


@needs_kernel
@pytest.mark.parametrize("sizes", SMALL, ids=str)
def test_learned_frequencies_keep_themselves_and_nothing_else(sizes):
    _, heads, channels, _ = sizes
    fixed, learned = 4 * channels, 4 * heads * channels  # bytes: two axes, half as many pairs as channels
    found = {kind: layer_keeps(kind, *sizes) for kind in ("axial", "mixed")}
    assert found["mixed"] - found["axial"] == learned - fixed
    with FakeTensorMode():  # what is counted without memory is what is kept
        assert {kind: layer_keeps(kind, *sizes) for kind in found} == found


@needs_kernel
def test_a_layer_of_a_large_vit_at_1024_pixels_keeps_no_more_for_its_rotation():
    with FakeTensorMode():
        none, axial, mixed = (layer_keeps(kind, *LARGE) for kind in ("none", "axial", "mixed"))
    images, heads, channels, side = LARGE
    unit = images * (1 + side**2) * heads * channels * 4
    assert none > 5 * unit  # the input, q, k, v and what attention gives: the count is of the real thing
    assert none <= axial <= mixed <= 1.001 * none


def model(depth, position="rope_mixed"):
    return ViT(ViTConfig(width=32, depth=depth, heads=2, patch_size=8, img_size=(32, 48), position=position))


@needs_kernel
def test_each_further_block_keeps_as_much_as_the_one_before():
    counts = []
    for depth in (1, 2, 3):
        built, kept = model(depth), Kept()
        with saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            built(torch.randn(2, 3, 32, 48))
        counts.append(kept.total)
    assert counts[2] - counts[1] == counts[1] - counts[0]


class Tables(TorchDispatchMode):
    """Counts the cosines and sines that are alive at a time."""

    def __init__(self):
        super().__init__()
        self.made, self.most, self.count = [], 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.cos.default, torch.ops.aten.sin.default):
            self.made.append(weakref.ref(out))
            self.count += 1
            self.most = max(self.most, sum(table() is not None for table in self.made))
        return out


@pytest.mark.parametrize("depth", [1, 3])
def test_the_tables_of_the_reference_are_those_of_one_layer_at_a_time(depth):
    built = model(depth)
    set_backend(built, "reference")
    with torch.no_grad(), Tables() as tables:
        built(torch.randn(2, 3, 32, 48))
    assert tables.count == 2 * depth
    assert tables.most == 2
