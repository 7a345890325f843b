"""Window attention in C against the float64 reference, and what stays as it was where the kernel does not apply."""

import re

import pytest
import torch
from torch.testing import assert_close

from marks import by_default, in_turn
from ropevit.kernels import native, set_backend, window_attention
from ropevit.kernels.window_attention import (
    LARGEST_HEAD,
    LARGEST_WINDOW,
    attention_op,
    backward_op,
    chooses_kernel,
    resolve_backend,
    without_fusion,
)
from ropevit.kernels.windows import window_shift
from ropevit.models import Swin, SwinConfig
from ropevit.rope import axial_frequencies, mixed_frequencies

CPU = torch.device("cpu")

if not native.available_windows(torch.float32):
    pytest.skip("no C kernel here", allow_module_level=True)

#: Largest error allowed, relative to the largest value: a few roundings.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}

#: images, map, window, shift, heads, channels, frequencies, bias: whole windows and not, one window along a side,
#: windows of fewer tokens than a vector has numbers and of more than a block has, heads whose pairs fill no vector.
CASES = [
    (2, (2, 4), 2, (0, 0), 1, 8, None, False),
    (1, (9, 6), 4, (1, 3), 2, 32, "axial", True),
    (2, (15, 16), 7, (3, 3), 3, 32, "mixed", True),
    (1, (14, 9), 7, (0, 3), 2, 6, "odd", False),
    (1, (20, 17), 8, (4, 4), 2, 64, "axial", True),
    (1, (13, 24), 12, (0, 6), 2, 32, "mixed", True),
    (1, (5, 4), 3, (1, 2), 1, 34, "shared", True),
    (1, (17, 16), 16, (8, 8), 1, 128, "mixed", False),
    (1, (2, 3), 1, (0, 0), 2, 16, "mixed", True),
    (3, (25, 40), 5, (2, 2), 2, 20, "mixed", True),  # 120 windows: several in a chunk
]


def inputs(case, dtype=torch.float32):
    """Return the projection, frequencies, bias and arriving gradient of a case."""
    images, grid, window, _, heads, channels, kind, biased = case
    frequencies = {
        "axial": lambda: axial_frequencies(channels).float(),
        "mixed": lambda: mixed_frequencies(channels, heads),
        "odd": lambda: torch.randn(2, heads, channels // 2),
        "shared": lambda: torch.randn(2, 1, channels // 2),
        None: lambda: None,
    }[kind]()
    qkv = torch.randn(images, *grid, 3, heads, channels).to(dtype)
    bias = torch.randn(heads, window**2, window**2) if biased else None
    return [qkv, frequencies, bias, torch.randn(images, *grid, heads, channels).to(dtype)]


def run(case, given, backend="cpu"):
    """Return the output, and the gradients of the projection, frequencies and bias."""
    *leaves, arriving = [None if part is None else part.detach() for part in given]
    tracked = [leaf.requires_grad_() for leaf in leaves if leaf is not None]
    out = window_attention(leaves[0], *case[2:4], *leaves[1:], backend=backend)
    return [out.detach(), *torch.autograd.grad(out, tracked, arriving)]


def errors(found, truth):
    """Return the largest errors, relative to the largest values."""
    return [
        ((ours.double() - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)).item()
        for ours, theirs in zip(found, truth, strict=True)
    ]


@pytest.mark.parametrize(("case", "dtype"), in_turn(by_default(CASES, CASES), TOLERANCE), ids=str)
def test_values_and_all_gradients_are_those_of_the_reference(case, dtype):
    given = inputs(case, dtype)
    truth = run(case, [None if part is None else part.double() for part in given], "reference")
    found = run(case, given)
    assert [part.dtype for part in found] == [dtype] * 2 + [torch.float32] * (len(found) - 2)
    assert [part.shape for part in found] == [part.shape for part in truth]
    off = errors(found, truth)
    assert max(off[:2]) < TOLERANCE[dtype], off
    assert max(off[2:], default=0) < 2e-6, off  # in float32 throughout


@pytest.mark.parametrize("case", [CASES[2], CASES[-1]], ids=str)
def test_results_do_not_depend_on_the_number_of_threads(case):
    given, threads, found = inputs(case), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            found.append(run(case, given))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


def test_bounding_the_memory_for_sums_changes_only_their_order():
    """The sums of two windows would take 21 MB, more than the bound: they make one chunk instead of two."""
    case = (1, (16, 32), 16, (0, 8), 40, 2, None, True)
    given = inputs(case)
    truth = run(case, [None if part is None else part.double() for part in given], "reference")
    assert max(errors(run(case, given), truth)) < TOLERANCE[torch.float32]


def test_logits_of_any_size_are_finite_and_a_masked_key_has_no_weight():
    qkv, bias = torch.randn(1, 4, 4, 3, 1, 8) * 1e4, torch.zeros(1, 16, 16)
    bias[:, :, 3] = -torch.inf
    qkv[0, 0, 3, 2] = 1e30  # the value of that key
    given = [qkv, None, bias, torch.randn(1, 4, 4, 1, 8)]
    case = (1, (4, 4), 4, (0, 0), 1, 8, None, True)
    out, grad_qkv, grad_bias = run(case, given)
    expected, *_ = run(case, [None if part is None else part.double() for part in given], "reference")
    assert_close(out.double(), expected, rtol=1e-4, atol=1e-3)
    assert grad_qkv.isfinite().all()
    assert not grad_qkv[0, 0, 3, 1:].any()
    assert not grad_bias[:, :, 3].any()


def test_a_number_that_is_none_stays_in_its_window():
    qkv = torch.randn(1, 4, 8, 3, 1, 16)
    qkv[0, 1, 1, 0] = torch.nan
    out = window_attention(qkv, 4, backend="cpu")
    assert out[0, 1, 1].isnan().all()
    assert out.isnan().sum() == 16
    qkv[0, 2, 6, 1] = torch.nan
    assert window_attention(qkv, 4, backend="cpu")[:, :, 4:].isnan().all()


def test_an_empty_batch_stays_empty():
    case = (0, (3, 4), 2, (1, 1), 2, 16, "mixed", True)
    out, packed, speeds, biases = run(case, inputs(case))
    assert (out.shape, packed.shape) == ((0, 3, 4, 2, 16), (0, 3, 4, 3, 2, 16))
    assert not speeds.any()
    assert not biases.any()


def test_any_layout_of_the_tensors_will_do():
    case = CASES[2]
    given = inputs(case)
    strange = [
        *(part.transpose(1, 2).contiguous().transpose(1, 2) for part in given[:2]),
        given[2].permute(1, 2, 0).contiguous().permute(2, 0, 1),  # as a Swin makes it from its table
        given[3].transpose(1, 2).contiguous().transpose(1, 2),
    ]
    assert all(torch.equal(*pair) for pair in zip(run(case, strange), run(case, given), strict=True))


@pytest.mark.usefixtures("unchecked")
def test_the_operations_are_what_they_say_of_themselves():
    qkv, frequencies, bias, arriving = inputs((1, (2, 2), 2, (0, 0), 1, 16, "mixed", True))
    torch.library.opcheck(attention_op, (qkv.requires_grad_(), frequencies, bias, 2, [0, 0], "cpu"))
    for asked in (True, False):
        given = (arriving, qkv.detach(), frequencies, bias, 2, [0, 0])
        wanted = {"backend": "cpu", "needs_frequencies_grad": asked, "needs_bias_grad": asked}
        torch.library.opcheck(backward_op, given, wanted, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("compiler", by_default(["eager"], ["eager", "aot_eager"]))
def test_it_compiles_without_a_graph_break_for_all_sizes(compiler):
    frequencies = mixed_frequencies(16, 1).requires_grad_()

    def layer(qkv):
        shift = window_shift(qkv.shape[1], qkv.shape[2], 2)
        return window_attention(qkv.sin(), 2, shift, frequencies).square()

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=compiler)
    for grid in [(3, 4), (4, 3)]:
        qkv = torch.randn(2, *grid, 3, 1, 16, requires_grad=True)
        ours, theirs, wanted = compiled(qkv), layer(qkv), [qkv, frequencies]
        assert torch.equal(ours, theirs)
        assert_close(torch.autograd.grad(ours.sum(), wanted), torch.autograd.grad(theirs.sum(), wanted))


def test_auto_takes_the_kernel_where_it_applies_and_else_the_reference(monkeypatch):
    assert chooses_kernel(CPU, torch.float32, LARGEST_WINDOW, LARGEST_HEAD["cpu"])
    assert chooses_kernel(CPU, torch.bfloat16, 7, 32)
    for given in [
        (CPU, torch.float64, 7, 32),
        (CPU, torch.float16, 7, 32),
        (CPU, torch.float32, LARGEST_WINDOW + 1, 32),
        (CPU, torch.float32, 7, LARGEST_HEAD["cpu"] + 2),
        (CPU, torch.float32, 7, 33),
        (torch.device("meta"), torch.float32, 7, 32),
    ]:
        assert not chooses_kernel(*given)
        assert resolve_backend(torch.empty(1, 7, 7, 3, 1, given[3], dtype=given[1], device=given[0]), given[2], "auto")
    qkv = torch.empty(1, 7, 7, 3, 1, 32)
    assert resolve_backend(qkv, 7, "auto") == "cpu"
    assert resolve_backend(qkv, 7, "auto", exact=True) == "reference"
    with without_fusion():
        assert resolve_backend(qkv, 7, "auto") == "reference"
    found = []
    torch.func.vmap(lambda part: found.append(resolve_backend(part, 7, "auto")) or part)(qkv)
    assert found == ["reference"]
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, "is_tracing", lambda: True)
        assert resolve_backend(qkv, 7, "auto") == "reference"
    monkeypatch.setattr(native, "library", object)  # as of an older wheel, which only rotates
    assert resolve_backend(qkv, 7, "auto") == "reference"


def test_frequencies_in_float64_are_not_rounded():
    qkv, frequencies, bias, _ = inputs(CASES[1])
    exact = window_attention(qkv, 4, (1, 3), frequencies.double(), bias)
    assert torch.equal(exact, window_attention(qkv, 4, (1, 3), frequencies.double(), bias, backend="reference"))


def test_a_second_derivative_is_refused():
    qkv = inputs(CASES[0])[0].requires_grad_()
    out = window_attention(qkv, 2, backend="cpu")
    (gradient,) = torch.autograd.grad(out.square().sum(), qkv, create_graph=True)
    with pytest.raises(ValueError, match=r"create_graph=True.*set_backend\(model, 'reference'\)"):
        gradient.sum().backward()


def test_what_the_kernel_does_not_take_is_refused_by_name():
    def refuses(message, window, shape, dtype=torch.float32):
        with pytest.raises(ValueError, match=re.escape(message)):
            resolve_backend(torch.empty(shape, dtype=dtype), window, "cpu")

    refuses("got torch.float64 for backend='cpu'", 7, (1, 7, 7, 3, 1, 32), torch.float64)
    refuses("got torch.float16 for backend='cpu', whose C kernel", 7, (1, 7, 7, 3, 1, 32), torch.float16)
    for window, channels in ((17, 32), (7, 130), (7, 33)):
        refuses(
            f"got windows of {window} and heads of {channels} channels for backend='cpu'; it takes windows up to 16 "
            "and heads of an even number of channels up to 128: use backend='auto'",
            window,
            (1, 7, 7, 3, 1, channels),
        )


def small_swin(position, window=4, **options):
    """Return a small model whose parameters are random, biases and frequencies included."""
    sizes = {"width": 16, "depths": (2, 1), "heads": (1, 2), "img_size": (32, 32), "num_classes": 3}
    model = Swin(SwinConfig(position=position, window_size=window, **sizes, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("position", ["rope_mixed_rpb", "rope_axial", "rpb"])
def test_a_whole_swin_gives_the_same_logits_and_gradients(position):
    model, images = small_swin(position), torch.randn(2, 3, 20, 28)  # a map of 5 x 7 tokens: padding, and shifts

    def step(backend):
        set_backend(model, backend)
        logits = model(images)
        return logits, torch.autograd.grad(logits.square().sum(), list(model.parameters()))

    fused, plain = step("auto"), step("reference")
    assert_close(fused[0], plain[0], rtol=1e-4, atol=1e-5)
    for (name, _), ours, theirs in zip(model.named_parameters(), fused[1], plain[1], strict=True):
        most = 1e-5 * theirs.abs().max().item()
        assert_close(ours, theirs, rtol=1e-3, atol=most, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture
def calls(monkeypatch):
    """Note each call of a C function."""
    seen, call = [], native.call
    monkeypatch.setattr(
        native, "call", lambda name, dtype, arguments: seen.append(name) or call(name, dtype, arguments)
    )
    return seen


def test_a_swin_calls_the_kernel_once_a_block_and_where_it_cannot_that_of_the_rotation(calls):
    model, images = small_swin("rope_mixed").eval(), torch.randn(1, 3, 32, 32)
    for backend, dtype, expected in [
        ("auto", torch.float32, "window_forward"),
        ("cpu", torch.float32, "window_forward"),
        ("auto", torch.float16, "forward"),
        ("cpu", torch.float16, "forward"),
        ("reference", torch.float32, None),
    ]:
        set_backend(model, backend)
        calls.clear()
        with torch.no_grad():
            model.to(dtype)(images.to(dtype))
        assert calls == [expected] * 3 if expected else not calls, (backend, dtype)
    model.float()
    set_backend(model, "auto")
    for context in (without_fusion(), torch.autocast("cpu", torch.float16)):
        calls.clear()
        with context, torch.no_grad():
            model(images)
        assert calls == ["forward"] * 3
    calls.clear()
    with torch.autocast("cpu", torch.bfloat16):
        model(images).sum().backward()
    assert calls == ["window_forward"] * 3 + ["window_backward"] * 3


def test_images_of_several_sizes_take_the_path_of_pixel_masks(calls):
    layer = small_swin("rope_mixed").layers[0].blocks[0].attn
    mask = torch.ones(1, 6, 5, dtype=torch.bool)
    mask[:, 4:] = False
    x = torch.randn(1, 6, 5, 16)
    layer(x, None, (2, 2), mask)
    assert calls == ["forward"]


@pytest.mark.usefixtures("unchecked")
def test_an_exported_swin_has_no_operation_of_this_package():
    program = torch.export.export(small_swin("rope_mixed").eval(), (torch.randn(1, 3, 32, 32),))
    assert "ropevit" not in str(program.graph)
