"""Every backend against the float64 reference: values and all gradients, whatever the shape, dtype and layout."""

import importlib
import sys
from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.testing import assert_close
from torch.testing._internal.two_tensor import TwoTensor

import ropevit
from marks import by_default, in_turn
from ropevit.kernels import BACKENDS, register_backend, rotate_qkv, set_backend
from ropevit.kernels.rotation import backward_op, interpreted, resolve_backend, rotate_op, triton_available
from ropevit.models import layers
from ropevit.rope import axial_frequencies, grid_positions, mixed_frequencies, rotate, rotation_angles

#: Largest error allowed, relative to the largest value: a few roundings of the dtype.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}

#: images, grid, prefix tokens, heads, channels: odd counts, non-square grids, heads of 32 to 128, also no power of two.
SHAPES = [
    (2, (3, 5), 1, 2, 64),
    (1, (7, 7), 0, 4, 32),
    (3, (2, 9), 5, 3, 36),
    (2, (1, 2), 1, 1, 128),
    (3, (2, 4), 0, 2, 80),
]

FUSED = [
    pytest.param(
        "cpu", marks=pytest.mark.skipif(resolve_backend(torch.zeros(1), "auto") != "cpu", reason="no C compiler here")
    ),
    pytest.param("triton", marks=pytest.mark.skipif(not triton_available(), reason="no Triton here")),
]


#: For tests that compile or trace for seconds: the C code alone by default.
COMPILED = [FUSED[0], pytest.param("triton", marks=[*FUSED[1].marks, pytest.mark.full])]


@pytest.fixture(params=FUSED)
def backend(request):
    """Return the name of a backend, and make tensors where it works: Triton on a GPU, else interpreted."""
    gpu = request.param == "triton" and torch.cuda.is_available()
    with torch.device("cuda") if gpu else nullcontext():
        yield request.param


def inputs(shape, dtype, shared=True, per_image=False):
    images, grid, prefix, heads, channels = shape
    qkv = torch.randn(images, prefix + grid[0] * grid[1], 3, heads, channels).to(dtype)
    positions = grid_positions(*grid)
    if per_image:
        positions = positions + torch.rand(images, 1, 2) * 5
    frequencies = axial_frequencies(channels).float() if shared else mixed_frequencies(channels, heads)
    return qkv, positions, frequencies, prefix


def run(qkv, positions, frequencies, prefix, backend, weights):
    """Return q, k, v and the gradients of the projection, positions and frequencies."""
    leaves = [tensor.clone().requires_grad_() for tensor in (qkv, positions, frequencies)]
    parts = rotate_qkv(*leaves, prefix, backend=backend)
    sum((part * weight.to(part.dtype)).sum() for part, weight in zip(parts, weights, strict=True)).backward()
    return [*(part.detach() for part in parts), *(leaf.grad for leaf in leaves)]


def compare(found, truth, dtype):
    for ours, theirs in zip(found, truth, strict=True):
        error = (ours.double() - theirs).abs().max() / theirs.abs().max().clamp(min=1e-9)
        assert error < TOLERANCE[dtype], error


@pytest.mark.parametrize(
    ("dtype", "shared", "per_image", "shape"),
    in_turn(
        [(dtype, *shared) for dtype in TOLERANCE for shared in ((True, False), (False, False), (False, True))],
        by_default([SHAPES[0], SHAPES[3]], SHAPES),
    ),
    ids=str,
)
def test_values_and_all_gradients_are_those_of_the_reference(backend, dtype, shape, shared, per_image):
    given = inputs(shape, dtype, shared, per_image)
    weights = [torch.randn(shape[0], shape[3], given[0].shape[1], shape[4]).to(dtype).double() for _ in range(3)]
    exact = (*(tensor.double() for tensor in given[:3]), given[3])
    truth = run(*exact, "reference", weights)
    found = run(*given, backend, weights)
    assert [tensor.dtype for tensor in found] == [dtype] * 4 + [torch.float32] * 2
    compare(found, truth, dtype)
    assert torch.equal(found[2], given[0][:, :, 2].transpose(1, 2))  # values and prefix tokens stay to the bit
    for part in range(2):
        assert torch.equal(found[part][:, :, : shape[2]], given[0][:, : shape[2], part].transpose(1, 2))


@pytest.mark.parametrize("backend", FUSED[:1], indirect=True)
def test_bfloat16_is_rounded_to_nearest(backend):
    """Each number of a pair (x, 0) is one product, so its rounding can be checked to the bit."""
    x = torch.randn(2, 6, 3, 2, 36, 2).to(torch.bfloat16)
    x[..., 1] = 0
    positions, frequencies = grid_positions(2, 3), mixed_frequencies(72, 2)
    angles = rotation_angles(positions, frequencies)
    q, k, _ = rotate_qkv(x.flatten(-2), positions, frequencies, backend=backend)
    for part, found in enumerate((q, k)):
        exact = x[:, :, part, ..., 0].transpose(1, 2).float()
        wanted = torch.stack([exact * angles.cos(), exact * angles.sin()], dim=-1).flatten(-2).to(torch.bfloat16)
        assert (found == wanted).float().mean() > 0.99  # but where the cosine's own error of 1e-7 tips the balance


@pytest.mark.parametrize("backend", FUSED[:1], indirect=True)
def test_a_rotation_by_nothing_keeps_every_normal_bfloat16(backend):
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    q = torch.stack([bits, torch.zeros_like(bits)], dim=-1).reshape(1, 512, 1, 4, 64).expand(1, 512, 3, 4, 64)
    found, *_ = rotate_qkv(q, torch.zeros(512, 2), torch.zeros(2, 32), backend=backend)
    first, second = found.transpose(1, 2).reshape(-1, 2).unbind(-1)
    finite = bits.isfinite()
    normal = finite & (bits.abs() >= torch.finfo(torch.bfloat16).smallest_normal)
    assert torch.equal(first[normal], bits[normal])
    assert (first - bits)[finite].abs().max() < torch.finfo(torch.bfloat16).smallest_normal
    assert second[finite].eq(0).all()
    assert first[bits.isnan()].isnan().all()


def test_a_tensor_that_was_saved_for_a_gradient_is_not_changed_unnoticed(backend):
    qkv, positions, frequencies, prefix = inputs(SHAPES[0], torch.float32)
    for learned in (False, True):
        saved = qkv.clone().requires_grad_().exp()  # its gradient needs the result
        with nullcontext() if learned else torch.no_grad():
            rotate_qkv(saved, positions, frequencies, prefix, inplace=True, backend=backend)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            saved.sum().backward()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("backend", FUSED[:1], indirect=True)
def test_tensors_that_wrap_others_are_known_to_have_changed(backend):
    qkv, positions, frequencies, prefix = inputs(SHAPES[0], torch.float32)
    pair = TwoTensor(qkv, qkv.clone())
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for wrapper in (pair, mode.from_tensor(qkv)):
            before = wrapper._version
            rotate_qkv(wrapper, positions, frequencies, prefix, inplace=True, backend=backend)
            assert wrapper._version > before


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # of PyTorch's own forward mode
@pytest.mark.parametrize("backend", FUSED[:1], indirect=True)
def test_forward_derivatives_are_refused_rather_than_wrong(backend):
    qkv, positions, frequencies, prefix = inputs(SHAPES[0], torch.float32)
    with forward_ad.dual_level():
        for tensors in (
            (forward_ad.make_dual(qkv, torch.ones_like(qkv)), positions, frequencies),
            (qkv, positions, forward_ad.make_dual(frequencies, torch.ones_like(frequencies))),
        ):
            for gradients in (True, False):  # `torch.no_grad` does not end them
                with torch.set_grad_enabled(gradients), pytest.raises(NotImplementedError, match="jvp"):
                    rotate_qkv(*tensors, prefix, backend=backend)


def test_the_operations_survive_a_second_import_of_their_module(monkeypatch):
    monkeypatch.setattr(ropevit.kernels, "rotation", ropevit.kernels.rotation)  # both are as they were afterwards
    monkeypatch.delitem(sys.modules, "ropevit.kernels.rotation")
    again = importlib.import_module("ropevit.kernels.rotation")
    qkv, positions, frequencies, prefix = inputs(SHAPES[0], torch.float32)
    assert_close(
        again.rotate_qkv(qkv, positions, frequencies, prefix)[0], rotate_qkv(qkv, positions, frequencies, prefix)[0]
    )


def test_the_reference_is_that_of_rotate_and_passes_gradcheck():
    qkv, positions, frequencies, prefix = inputs((2, (1, 2), 1, 2, 4), torch.float64, shared=False)
    positions, frequencies = positions.double(), frequencies.double()
    q, k, v = rotate_qkv(qkv, positions, frequencies, prefix)
    plain = rotate(qkv[:, :, 0].transpose(1, 2), qkv[:, :, 1].transpose(1, 2), positions, frequencies, prefix)
    assert_close((q, k, v), (*plain, qkv[:, :, 2].transpose(1, 2)))
    leaves = [tensor.requires_grad_() for tensor in (qkv, positions, frequencies)]
    assert torch.autograd.gradcheck(lambda *given: rotate_qkv(*given, prefix), leaves)
    assert torch.autograd.gradgradcheck(lambda *given: rotate_qkv(*given, prefix), leaves)


@pytest.mark.parametrize("ndim", [1, 3])
def test_positions_may_have_one_or_three_axes(backend, ndim):
    qkv = torch.randn(2, 9, 3, 2, 24)
    positions, frequencies = torch.randn(8, ndim) * 3, torch.randn(ndim, 2, 12)
    weights = [torch.randn(2, 2, 9, 24).double() for _ in range(3)]
    truth = run(qkv.double(), positions.double(), frequencies.double(), 1, "reference", weights)
    compare(run(qkv, positions, frequencies, 1, backend, weights), truth, torch.float32)


def test_angles_far_beyond_any_image_are_still_right(backend):
    positions = torch.tensor([[3e4, -2e5], [1e3, 7e3]])
    qkv, frequencies = torch.randn(1, 2, 3, 1, 32), axial_frequencies(32).float()
    truth = rotate_qkv(qkv.double(), positions.double(), frequencies.double())
    for ours, theirs in zip(rotate_qkv(qkv, positions, frequencies, backend=backend), truth, strict=True):
        assert_close(ours.double(), theirs, rtol=0, atol=0.05)  # float32 angles of 2e5 have steps of 0.016


def test_only_a_call_in_place_overwrites_the_projection(backend):
    qkv, *rest = inputs(SHAPES[0], torch.float32)
    before = qkv.clone()
    q, _, _ = rotate_qkv(qkv, *rest, backend=backend)
    assert torch.equal(qkv, before)
    again, _, _ = rotate_qkv(qkv, *rest, backend=backend, inplace=True)
    assert again.data_ptr() == qkv.data_ptr()
    assert torch.equal(again, q)
    with pytest.raises(ValueError, match=r"got a leaf that requires grad with inplace=True"):
        rotate_qkv(before.requires_grad_(), *rest, backend=backend, inplace=True)


def test_a_layer_may_hand_over_what_it_returned(backend):
    linear, x = torch.nn.Linear(16, 96), torch.randn(2, 13, 16)
    positions, frequencies = grid_positions(3, 4), mixed_frequencies(16, 2).requires_grad_()

    def loss(backend, inplace):
        qkv = linear(x).unflatten(-1, (3, 2, 16))
        q, k, v = rotate_qkv(qkv, positions, frequencies, 1, inplace=inplace, backend=backend)
        return F.scaled_dot_product_attention(q, k, v).square().sum()

    wanted = [linear.weight, linear.bias, frequencies]
    truth = torch.autograd.grad(loss("reference", False), wanted)
    assert_close(torch.autograd.grad(loss(backend, True), wanted), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["strided", "permuted", "every second image"])
def test_any_layout_of_projection_and_gradients_will_do(backend, layout):
    _, positions, frequencies, prefix = inputs((4, (3, 4), 1, 2, 36), torch.float32, shared=False)
    wide = torch.randn(8, 13, 3, 2, 72)
    views = {
        "strided": wide[:4, ..., ::2],
        "permuted": wide[:4, ..., :36].permute(0, 2, 1, 3, 4).contiguous().permute(0, 2, 1, 3, 4),
        "every second image": wide[::2, ..., :36],
    }
    view = views[layout].detach().requires_grad_()
    weights = [torch.randn(36, 13, 2, 4).permute(3, 2, 1, 0) for _ in range(3)]  # gradients with strange strides, too
    parts = rotate_qkv(view, positions, frequencies, prefix, backend=backend)
    (gradient,) = torch.autograd.grad(parts, view, weights)
    truth = run(view.detach().double(), positions.double(), frequencies.double(), prefix, "reference", weights)
    compare([*(part.detach() for part in parts), gradient], truth[:4], torch.float32)


def test_an_empty_batch_stays_empty(backend):
    qkv, positions, frequencies, prefix = inputs((0, (3, 4), 1, 2, 32), torch.float32, shared=False)
    found = run(qkv, positions, frequencies, prefix, backend, [torch.zeros(0, 2, 13, 32)] * 3)
    assert found[3].shape == qkv.shape
    assert_close(found[4:], [torch.zeros_like(positions), torch.zeros_like(frequencies)])


def test_results_do_not_depend_on_the_number_of_threads(backend):
    slow = backend == "triton" and interpreted()
    given = inputs((2, (2, 3), 1, 1, 64) if slow else (6, (7, 9), 1, 3, 64), torch.float32, shared=False)
    weights = [torch.randn_like(given[0][:, :, 0].transpose(1, 2)) for _ in range(3)]
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(run(*given, backend, weights)[:4])
    finally:
        torch.set_num_threads(threads)
    for ours in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(ours, results[0], strict=True))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("backend", COMPILED, indirect=True)
def test_it_compiles_without_a_graph_break_and_without_a_copy(backend):
    linear, frequencies = torch.nn.Linear(32, 96), mixed_frequencies(16, 2).requires_grad_()

    def layer(x, positions):
        qkv = linear(x).unflatten(-1, (3, 2, 16))
        q, k, v = rotate_qkv(qkv, positions, frequencies, 1, inplace=True, backend=backend)
        return F.scaled_dot_product_attention(q, k, v)

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for grid in [(3, 4), (5, 2)]:
        x, positions = torch.randn(4, 1 + grid[0] * grid[1], 32), grid_positions(*grid)
        ours, theirs = compiled(x, positions), layer(x, positions)
        assert_close(ours, theirs)
        wanted = [linear.weight, frequencies]
        assert_close(torch.autograd.grad(ours.sum(), wanted), torch.autograd.grad(theirs.sum(), wanted))
        with torch.no_grad():
            assert_close(compiled(x, positions), theirs)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("backend", COMPILED, indirect=True)
def test_the_operations_are_what_they_say_of_themselves(backend):
    qkv, positions, frequencies, prefix = inputs(SHAPES[0], torch.float32, shared=False)
    torch.library.opcheck(rotate_op, (qkv, positions, frequencies, prefix, backend))
    gradients = [torch.randn_like(qkv[:, :, 0].transpose(1, 2)) for _ in range(3)]
    strange = [part.transpose(0, -1).contiguous().transpose(0, -1) for part in (positions, frequencies)]
    for rotated, needs_positions_grad, *tensors in (
        (gradients[:2], True, positions, frequencies),
        (gradients[:2], True, *strange),
        (gradients[:2], False, positions, frequencies),
        ([], False, positions, frequencies),
    ):
        given = (gradients, rotated, *tensors, prefix, backend)
        torch.library.opcheck(backward_op, given, {"needs_positions_grad": needs_positions_grad})


def test_gradients_have_the_strides_that_a_compiled_graph_is_told(backend):
    """Frequencies and positions of a permuted layout, as a model may store them."""
    qkv, positions, frequencies, prefix = inputs(SHAPES[0], torch.float32, shared=False)
    strange = [part.transpose(0, -1).contiguous().transpose(0, -1) for part in (positions, frequencies)]
    gradients = [torch.randn_like(qkv[:, :, 0].transpose(1, 2)) for _ in range(3)]
    found = backward_op(gradients, gradients[:2], *strange, prefix, backend, needs_positions_grad=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        told = backward_op(gradients, gradients[:2], *strange, prefix, backend, needs_positions_grad=True)
    assert [part.stride() for part in found] == [part.stride() for part in told]


def test_fixed_frequencies_leave_nothing_of_the_projection_to_keep(backend):
    qkv, positions, frequencies, prefix = inputs(SHAPES[0], torch.float32)
    for learned, count in ((False, 0), (True, 2)):
        frequencies.requires_grad_(learned)
        q, _, _ = rotate_qkv(qkv.detach().requires_grad_(), positions, frequencies, prefix, backend=backend)
        assert sum(tensor.ndim == 4 for tensor in q.grad_fn.saved_tensors) == count


def test_a_second_derivative_is_refused_and_the_reference_has_it(backend):
    qkv, *rest = inputs(SHAPES[0], torch.float32)
    for name in (backend, "reference"):
        (gradient,) = torch.autograd.grad(
            rotate_qkv(qkv.requires_grad_(), *rest, backend=name)[0].pow(3).sum(), qkv, create_graph=True
        )
        if name == "reference":
            gradient.sum().backward()
        else:
            with pytest.raises(ValueError, match=r"create_graph=True.*set_backend\(model, 'reference'\)"):
                gradient.sum().backward()


def test_auto_takes_the_reference_where_a_kernel_cannot_go():
    qkv, positions, frequencies, prefix = inputs(SHAPES[0], torch.float64)
    assert resolve_backend(qkv, "auto") == "reference"
    assert resolve_backend(qkv.to("meta"), "auto") == "reference"
    for places, table in ((positions.double(), frequencies), (positions, frequencies.double())):
        far = places + 1e6 if places.dtype == torch.float64 else places
        found = rotate_qkv(qkv.float(), far, table, prefix)
        truth = rotate_qkv(qkv.float().double(), far, table, prefix)
        assert_close(found[0].double(), truth[0], rtol=0, atol=1e-6)
    gradient = torch.func.grad(lambda x: rotate_qkv(x, positions, frequencies, prefix)[0].square().sum())(qkv.float())
    assert gradient.shape == qkv.shape


@pytest.mark.usefixtures("unchecked")
def test_wrong_input_is_refused():
    qkv, positions, frequencies, prefix = inputs(SHAPES[0], torch.float32)
    with pytest.raises(ValueError, match=r"got a projection of shape \(2, 16, 6, 64\); expected \(B, tokens, 3"):
        rotate_qkv(qkv.flatten(2, 3), positions, frequencies, prefix)
    with pytest.raises(ValueError, match=r"no backend named 'cuda'; choose auto or one of reference, cpu, triton"):
        rotate_qkv(qkv, positions, frequencies, prefix, backend="cuda")
    with pytest.raises(ValueError, match=r"got torch.float64 for backend='cpu'; use float32, bfloat16 or float16"):
        rotate_qkv(qkv.double(), positions, frequencies, prefix, backend="cpu")
    with pytest.raises(ValueError, match=r"got 16 tokens, 15 positions and num_prefix_tokens=0"):
        rotate_qkv(qkv, positions, frequencies, 0)
    for axes, pairs in ((0, 32), (2, 0)):
        with pytest.raises(
            ValueError, match=rf"got frequencies of shape \({axes}, {pairs}\); expected \(axes, pairs\)"
        ):
            rotate_qkv(qkv[..., : 2 * pairs], positions[:, :axes], torch.zeros(axes, pairs), prefix, backend="cpu")
    assert set(BACKENDS) == {"reference", "cpu", "triton"}


def test_a_backend_that_cannot_be_registered_is_refused_and_named():
    for name in ("cpu", "auto", "two words"):
        with pytest.raises(ValueError, match=f"got the backend '{name}'; expected a word other than auto, reference"):
            register_backend(name, "some.module")
    with pytest.raises(ValueError, match=r"got a backend 'mine' without rotate_ and backward; see docs/extending\.md"):
        register_backend("mine", object())
    assert set(BACKENDS) == {"reference", "cpu", "triton"}


def test_the_backend_of_a_whole_model_can_be_chosen():
    model = ropevit.create_model("rope_mixed_deit_tiny_patch16_LS", depth=2, width=48, heads=2, num_classes=3)
    images = torch.randn(2, 3, 48, 32)
    auto = model(images)
    set_backend(model, "reference")
    assert [block.attn.backend for block in model.blocks] == ["reference"] * 2
    assert_close(model(images), auto, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"no backend named 'fast'; choose auto or one of"):
        set_backend(model, "fast")
    with pytest.raises(ValueError, match=r"got Linear, which has no attention of this package"):
        set_backend(torch.nn.Linear(2, 2), "auto")


class Wrapper(torch.nn.Module):
    """Passes on what the layer within returns, as an adapter that is switched off."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        return self.base(x)


@pytest.mark.parametrize("way", ["own hook", "global hook", "hook within a wrapper", "replaced forward"])
def test_what_somebody_keeps_of_the_projection_is_not_overwritten(way):
    model = ropevit.create_model("rope_axial_deit_tiny_patch16_LS", depth=1, width=48, heads=2, num_classes=3)
    kept, images = [], torch.randn(1, 3, 32, 48)
    plain, attention = model(images), model.blocks[0].attn
    layer = attention.qkv
    if way == "global hook":
        keep = torch.nn.modules.module.register_module_forward_hook
        handle = keep(lambda module, _given, out: kept.append(out) if module is layer else None)
    elif way == "replaced forward":  # as offloading does
        handle, forward = None, layer.forward
        layer.forward = lambda x: kept.append(forward(x)) or kept[-1]
    else:
        handle = layer.register_forward_hook(lambda _layer, _given, out: kept.append(out))
        attention.qkv = Wrapper(layer) if way == "hook within a wrapper" else layer
    try:
        assert torch.equal(model(images), plain)
    finally:
        if handle is not None:
            handle.remove()
    tokens = model.blocks[0].norm1(model.embed(images)[0])
    assert_close(kept[0], torch.nn.functional.linear(tokens, layer.weight, layer.bias))


def test_the_projection_of_a_plain_layer_is_rotated_in_place(monkeypatch):
    model = ropevit.create_model("rope_axial_deit_tiny_patch16_LS", depth=1, width=48, heads=2, num_classes=3)
    seen = []
    monkeypatch.setattr(
        layers, "rotate_qkv", lambda *given, **how: seen.append(how["inplace"]) or rotate_qkv(*given, **how)
    )
    model(torch.randn(1, 3, 32, 48))
    assert seen == [True]
