"""What a rotated layer costs, counted and not timed: launches, passes over memory, and memory for sums."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ropevit.kernels import rotate_qkv
from ropevit.kernels.rotation import interpreted, triton_available
from ropevit.rope import axial_frequencies, grid_positions, mixed_frequencies

if not triton_available():
    pytest.skip("no Triton here", allow_module_level=True)

from ropevit.kernels import triton_rotation

DEVICE = "cpu" if interpreted() else "cuda"


class Calls(TorchDispatchMode):
    """Notes each operation, and how many numbers it writes."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.made.append((func.name(), out.numel() if isinstance(out, torch.Tensor) else 0))
        return out


@pytest.fixture
def launches(monkeypatch):
    """Note each launch of a kernel, with the tensors that it reads or writes."""
    seen, launch = [], triton_rotation.launch

    def noted(kernel, plan, shape, positions, frequencies, **arguments):
        seen.append((kernel.__name__, arguments))
        launch(kernel, plan, shape, positions, frequencies, **arguments)

    monkeypatch.setattr(triton_rotation, "launch", noted)
    return seen


def passes(arguments: dict) -> float:
    """Count the numbers that a launch moves, as multiples of one of q, k, v: by formula, all tokens being rotated."""
    if "qkv" in arguments:
        return 4  # q and k, read and written
    return len(arguments["parts"]) + 3  # what is read, and the packed gradient


@pytest.mark.parametrize(("learned", "moved"), [(False, 6), (True, 8)])
def test_a_layer_takes_one_launch_for_each_direction(launches, learned, moved):
    frequencies = mixed_frequencies(16, 2) if learned else axial_frequencies(16).float()
    frequencies = frequencies.to(DEVICE).requires_grad_(learned)
    qkv = torch.randn(2, 7, 3, 2, 16, device=DEVICE, requires_grad=True)
    q, k, v = rotate_qkv(qkv, grid_positions(2, 3).to(DEVICE), frequencies, 1, backend="triton")
    assert [(name, passes(arguments)) for name, arguments in launches] == [("forward_kernel", 4)]
    loss = F.scaled_dot_product_attention(q, k, v).sum()
    launches.clear()
    loss.backward()
    assert [(name, passes(arguments)) for name, arguments in launches] == [("backward_kernel", moved)]
    assert (launches[0][1]["sums"] is not None) == learned
    assert launches[0][1]["position_sums"] is None


@pytest.mark.parametrize("shared", [False, True])
def test_beside_the_kernels_only_small_sums_are_made(monkeypatch, shared):
    monkeypatch.setattr(triton_rotation, "launch", lambda *_, **__: None)  # interpreted, it would make tensors, too
    frequencies = (mixed_frequencies(16, 1)[:, 0] if shared else mixed_frequencies(16, 2)).to(DEVICE)
    parts = [torch.randn(8, 7, 2, 16, device=DEVICE).transpose(1, 2) for _ in range(5)]
    positions = grid_positions(2, 3).to(DEVICE)
    with Calls() as calls:
        triton_rotation.backward(parts[:3], parts[3:], positions, frequencies, 1, needs_positions_grad=False)
    names, counts = zip(*calls.made, strict=True)
    assert names == ("aten::new_empty", "aten::new_empty") + ("aten::sum.dim_IntList",) * (1 + shared)
    plan = triton_rotation.plan_rotation(8, 7, 32, 4)
    assert counts[:2] == (8 * 7 * 3 * 2 * 16, plan.along * plan.chunks * 2 * 2 * 8)  # projection; axes, heads, pairs
    assert counts[2] == 2 * 2 * 8


@pytest.mark.parametrize("shape", [(256, 12, 197, 64), (16, 12, 4097, 64), (1, 16, 262144, 64), (16384, 4, 49, 32)])
def test_memory_for_sums_is_bounded(shape):
    images, heads, tokens, channels = shape
    for size in (2, 4):
        plan = triton_rotation.plan_rotation(images, tokens, heads * channels, size)
        sums = plan.along * plan.chunks * 2 * heads * channels // 2 * 4  # bytes, for two axes
        assert sums <= triton_rotation.PROGRAMS * plan.block_c * 4 <= 2**23
        assert sums <= 0.2 * 3 * images * heads * tokens * channels * size
