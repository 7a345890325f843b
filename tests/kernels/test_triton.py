"""What only the Triton backend has: how work is shared out, its sines, and what it refuses."""

import math
import os

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close

from marks import by_default
from ropevit.kernels import cpu, rotate_qkv, rotation
from ropevit.kernels.rotation import interpreted, resolve_backend, triton_available
from ropevit.rope import grid_positions, mixed_frequencies

if not triton_available():
    pytest.skip("no Triton here", allow_module_level=True)

from ropevit.kernels import triton_rotation

DEVICE = "cpu" if interpreted() else "cuda"


@pytest.mark.parametrize("programs", by_default([12], [2, 12, 64]))
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("heads", by_default([2], [2, None]))
def test_a_program_may_go_through_several_images_and_blocks(monkeypatch, programs, per_image, heads):
    monkeypatch.setattr(triton_rotation, "PROGRAMS", programs)
    monkeypatch.setattr(triton_rotation, "TILE", 1024)
    positions = grid_positions(2, 5) + (torch.rand(3, 1, 2) * 5 if per_image else 0)
    frequencies = mixed_frequencies(36, 2) if heads else mixed_frequencies(36, 1)[:, 0]
    qkv, gradients = torch.randn(3, 11, 3, 2, 36), [torch.randn(3, 2, 11, 36) for _ in range(3)]
    ours, theirs = qkv.to(DEVICE, copy=True), qkv.clone()
    given = positions.to(DEVICE), frequencies.to(DEVICE), 1
    triton_rotation.rotate_(ours, *given)
    cpu.rotate_(theirs, positions, frequencies, 1)
    assert_close(ours.cpu(), theirs, rtol=1e-5, atol=1e-5)
    moved = [part.to(DEVICE) for part in gradients]
    rotated = [theirs[:, :, part].transpose(1, 2) for part in range(2)]
    truth = cpu.backward(gradients, rotated, positions, frequencies, 1, needs_positions_grad=True)
    found = triton_rotation.backward(moved, [part.to(DEVICE) for part in rotated], *given, needs_positions_grad=True)
    for name, one, other in zip(truth._fields, found, truth, strict=True):
        assert_close(one.cpu(), other, rtol=1e-4, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("largest", [10.0, 8192.0, 1e6, 1e9])
def test_sines_are_right_however_large_the_angle(largest):
    angles = torch.linspace(-largest, largest, 62).reshape(31, 2)
    qkv = torch.zeros(1, 31, 3, 1, 4)
    qkv[..., 0::2] = 1
    q, _, _ = rotate_qkv(qkv.to(DEVICE), angles.to(DEVICE), torch.eye(2, device=DEVICE), backend="triton")
    exact = torch.stack([angles.double().cos(), angles.double().sin()], dim=-1).flatten(-2)
    # a GPU has fused multiply-add; without, as in the interpreter, a long product is rounded, as the angle itself was
    error = largest * 1.2e-7 if interpreted() and largest > 1e4 else 1e-6
    assert_close(q[0, 0].cpu().double(), exact, rtol=0, atol=error)
    assert_close(q.square().unflatten(-1, (-1, 2)).sum(-1), torch.ones(1, 1, 31, 2, device=DEVICE), rtol=0, atol=1e-5)


def test_positions_and_frequencies_get_gradients_only_where_asked():
    qkv, positions, frequencies = torch.randn(1, 4, 3, 1, 16), grid_positions(2, 2), mixed_frequencies(16, 1)
    gradients = [part.transpose(1, 2).to(DEVICE) for part in qkv.unbind(2)]
    given = positions.to(DEVICE), frequencies.to(DEVICE), 0
    found = triton_rotation.backward(gradients, gradients[:2], *given, needs_positions_grad=False)
    assert found.positions is None
    assert found.frequencies is not None
    assert triton_rotation.backward(gradients, [], *given, needs_positions_grad=True)[1:] == (None, None)


@pytest.mark.parametrize(
    "shape", [(256, 197, 768), (1, 197, 384), (16384, 49, 128), (256, 4096, 768), (1, 262144, 1024)]
)
@pytest.mark.parametrize("size", [2, 4])
def test_a_plan_covers_everything_once_and_keeps_few_sums(shape, size):
    images, tokens, width = shape
    plan = triton_rotation.plan_rotation(images, tokens, width, size)
    assert plan.block_n * plan.block_c * size == triton_rotation.TILE
    assert plan.across * plan.block_c == width
    assert (plan.chunks - 1) * plan.chunk < images <= plan.chunks * plan.chunk
    blocks = math.ceil(tokens / plan.block_n)
    assert (plan.along - 1) * plan.steps < blocks <= plan.along * plan.steps
    assert plan.across * plan.along * plan.chunks <= triton_rotation.PROGRAMS


def test_a_tensor_that_no_gpu_holds_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(
        ValueError, match=r"got a projection on cpu for backend='triton'; move it to a GPU, or use 'auto'"
    ):
        resolve_backend(torch.zeros(1), "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve_backend(torch.zeros(1), "triton") == "triton"
    with pytest.raises(ValueError, match=r"got a projection on meta"):
        resolve_backend(torch.zeros(1, device="meta"), "triton")
    assert "TRITON_INTERPRET" in os.environ


def test_a_gpu_takes_triton_by_name_only():
    with FakeTensorMode(allow_non_fake_inputs=True):
        qkv = torch.empty(1, device="cuda")
    assert resolve_backend(qkv, "auto") == "reference"
    assert resolve_backend(qkv, "triton") == "triton"


def test_without_triton_its_name_is_refused(monkeypatch):
    monkeypatch.setattr(rotation, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"backend='triton', but triton is not installed; install it, or use"):
        resolve_backend(torch.zeros(1), "triton")
