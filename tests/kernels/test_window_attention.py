"""The fused attention inside windows against the float64 reference, and the reference against the models' own path."""

import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.testing import assert_close

from marks import by_default, in_turn
from ropevit.kernels import set_backend, window_attention
from ropevit.kernels.rotation import interpreted, triton_available
from ropevit.kernels.window_attention import LARGEST_WINDOW, attention_op, backward_op, resolve_backend
from ropevit.kernels.windows import window_shift
from ropevit.models import Swin, SwinConfig
from ropevit.rope import axial_frequencies, mixed_frequencies

if not triton_available():
    pytest.skip("no Triton here", allow_module_level=True)

from triton.runtime.errors import OutOfResources

from ropevit.kernels import triton_window_attention

DEVICE = "cpu" if interpreted() else "cuda"

#: Largest error allowed, relative to the largest value: a few roundings (the interpreter cuts bfloat16 off).
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}

#: images, map, window, shift, heads, channels, frequencies, bias: whole windows and not, one window along a side, not
#: shifted and shifted, queries in one block and in two, heads whose channels are no power of two.
CASES = [
    (2, (2, 4), 2, (0, 0), 1, 16, None, False),
    (1, (4, 5), 3, (1, 1), 2, 16, "mixed", True),
    (2, (3, 6), 4, (0, 2), 2, 12, "axial", False),
    (1, (6, 5), 5, (2, 0), 1, 36, "mixed", True),
    (1, (5, 4), 3, (1, 2), 1, 32, None, True),
    (1, (3, 6), 4, (1, 2), 1, 16, "mixed", True),
]


def inputs(case, dtype=torch.float32):
    """Return the projection, frequencies, bias and arriving gradient of a case."""
    images, grid, window, _, heads, channels, kind, biased = case
    qkv = torch.randn(images, *grid, 3, heads, channels).to(dtype)
    frequencies = {"axial": axial_frequencies(channels).float(), "mixed": mixed_frequencies(channels, heads)}.get(kind)
    bias = torch.randn(heads, window**2, window**2) if biased else None
    arriving = torch.randn(images, *grid, heads, channels).to(dtype)
    return [None if part is None else part.to(DEVICE) for part in (qkv, frequencies, bias, arriving)]


def run(case, given, backend):
    """Return the output, and the gradients of the projection, frequencies and bias."""
    *leaves, arriving = [None if part is None else part.clone() for part in given]
    tracked = [leaf.requires_grad_() for leaf in leaves if leaf is not None]
    out = window_attention(leaves[0], *case[2:4], *leaves[1:], backend=backend)
    return [out.detach(), *torch.autograd.grad(out, tracked, arriving)]


@pytest.mark.parametrize(("case", "dtype"), in_turn(by_default(CASES[-3:], CASES), TOLERANCE), ids=str)
def test_values_and_all_gradients_are_those_of_the_reference(case, dtype):
    given = inputs(case, dtype)
    truth = run(case, [None if part is None else part.double() for part in given], "reference")
    found = run(case, given, "triton")
    assert [part.dtype for part in found] == [dtype] * 2 + [torch.float32] * (len(found) - 2)
    for ours, theirs in zip(found, truth, strict=True):
        error = (ours.double() - theirs).abs().max() / theirs.abs().max()
        assert error < TOLERANCE[dtype], error


@pytest.mark.parametrize(
    "position", by_default(["rope_mixed_rpb", "rope_axial"], ["rope_mixed_rpb", "rope_axial", "rpb"])
)
def test_a_whole_swin_gives_the_same_logits_and_gradients(position):
    sizes = {"width": 16, "depths": (2, 1), "heads": (1, 2), "img_size": (32, 32), "window_size": 4, "num_classes": 3}
    model = Swin(SwinConfig(position=position, **sizes)).to(DEVICE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    images = torch.randn(1, 3, 20, 28, device=DEVICE)  # a map of 5 x 7 tokens: windows with padding, and shifted

    def step():
        logits = model(images)
        return logits, torch.autograd.grad(logits.square().sum(), list(model.parameters()))

    plain, keys = step(), list(model.state_dict())
    set_backend(model, "triton")
    fused = step()
    assert list(model.state_dict()) == keys
    assert_close(fused[0], plain[0], rtol=1e-4, atol=1e-5)
    for (name, _), ours, theirs in zip(model.named_parameters(), fused[1], plain[1], strict=True):
        assert_close(
            ours, theirs, rtol=1e-3, atol=1e-5 * theirs.abs().max().item(), msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.fixture
def launches(monkeypatch):
    """Note the name of each kernel that is launched."""
    seen, launch = [], triton_window_attention.launch

    def noted(kernel, *given, **arguments):
        seen.append(kernel.__name__)
        launch(kernel, *given, **arguments)

    monkeypatch.setattr(triton_window_attention, "launch", noted)
    return seen


@pytest.mark.parametrize("biased", [False, True])
def test_a_layer_takes_one_launch_forward_and_one_backward_and_one_for_the_bias(launches, biased):
    case = (1, (3, 4), 2, (1, 1), 1, 16, "axial", biased)
    run(case, inputs(case), "triton")
    assert launches == ["forward_kernel", "backward_kernel"] + ["bias_kernel"] * biased


def test_nothing_but_what_came_in_is_kept_for_the_backward_pass():
    case = CASES[1]
    qkv, frequencies, bias, _ = inputs(case)
    qkv.requires_grad_()
    kept = []
    with saved_tensors_hooks(lambda part: kept.append(part) or part, lambda part: part):
        window_attention(qkv, *case[2:4], frequencies, bias, backend="triton")
    assert {part.data_ptr() for part in kept} <= {part.data_ptr() for part in (qkv, frequencies, bias)}


@pytest.mark.full
def test_programs_that_share_the_windows_differently_give_the_same_gradient_of_the_bias(monkeypatch):
    case = CASES[1]
    given = inputs(case)
    whole = run(case, given, "triton")
    assert all(torch.equal(*pair) for pair in zip(whole, run(case, given, "triton"), strict=True))
    monkeypatch.setattr(triton_window_attention, "SUMS", 3 * 4 * given[2].numel())  # three programs for four windows
    assert_close(run(case, given, "triton")[3], whole[3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("images", "side", "heads", "window"), [(256, 56, 4, 7), (128, 96, 4, 12), (1, 512, 4, 16)])
def test_memory_for_sums_is_bounded(monkeypatch, images, side, heads, window):
    made = []
    monkeypatch.setattr(triton_window_attention, "launch", lambda *_, **arguments: made.append(arguments["sums"]))
    qkv = torch.empty(images, side, side, 3, heads, 32, dtype=torch.bfloat16, device="meta")
    frequencies = torch.empty(2, heads, 16, device="meta")
    bias = torch.empty(heads, window**2, window**2, device="meta")
    asked = {"needs_frequencies_grad": True, "needs_bias_grad": True}
    triton_window_attention.backward(qkv[:, :, :, 0], qkv, frequencies, bias, window, [0, 0], **asked)
    needs_frequencies_grad, needs_bias_grad = (part.numel() * part.element_size() for part in made)
    assert needs_frequencies_grad <= 0.02 * qkv.numel() * qkv.element_size()
    assert needs_bias_grad <= triton_window_attention.SUMS


def test_a_gpu_with_too_little_shared_memory_says_so_in_a_line(monkeypatch):
    class TooLarge:
        def __getitem__(self, grid):
            raise OutOfResources(147456, 101376, "shared memory")

    monkeypatch.setattr(triton_window_attention, "forward_kernel", TooLarge())
    case = (1, (9, 9), 9, (0, 0), 1, 64, "mixed", False)
    with pytest.raises(
        ValueError, match=re.escape("got windows of 9 and heads of 64 channels in torch.float32")
    ) as said:
        run(case, inputs(case), "triton")
    assert "needs 147456 of shared memory, and this GPU has 101376; use backend='auto'" in str(said.value)


def test_an_empty_batch_stays_empty():
    case = (0, (3, 4), 2, (1, 1), 2, 16, "mixed", True)
    out, packed, frequencies, biases = run(case, inputs(case), "triton")
    assert out.shape == (0, 3, 4, 2, 16)
    assert packed.shape == (0, 3, 4, 3, 2, 16)
    assert not frequencies.any()
    assert not biases.any()


def test_any_layout_of_the_projection_and_its_gradient_will_do():
    case = CASES[-1]
    qkv, frequencies, bias, arriving = inputs(case)
    expected = run(case, (qkv, frequencies, bias, arriving), "triton")
    strange = [part.transpose(1, 2).contiguous().transpose(1, 2) for part in (qkv, arriving)]
    found = run(case, (strange[0], frequencies, bias, strange[1]), "triton")
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.usefixtures("unchecked")
def test_the_operations_are_what_they_say_of_themselves():
    qkv, frequencies, bias, arriving = inputs((1, (2, 2), 2, (0, 0), 1, 16, "mixed", True))
    torch.library.opcheck(attention_op, (qkv.requires_grad_(), frequencies, bias, 2, [0, 0], "triton"))
    for asked in (True, False):
        given = (arriving, qkv.detach(), frequencies, bias, 2, [0, 0])
        wanted = {"backend": "triton", "needs_frequencies_grad": asked, "needs_bias_grad": asked}
        torch.library.opcheck(backward_op, given, wanted, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.full  # what it is made of, the operations above, are checked by default
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_it_compiles_without_a_graph_break_for_all_sizes(compiler):
    frequencies = mixed_frequencies(16, 1).to(DEVICE).requires_grad_()

    def layer(qkv):
        shift = window_shift(qkv.shape[1], qkv.shape[2], 2)
        return window_attention(qkv.sin(), 2, shift, frequencies, backend="triton").square()

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=compiler)
    for grid in [(3, 4), (4, 3)]:
        qkv = torch.randn(2, *grid, 3, 1, 16, device=DEVICE, requires_grad=True)
        ours, theirs = compiled(qkv), layer(qkv)
        assert_close(ours, theirs)
        wanted = [qkv, frequencies]
        assert_close(torch.autograd.grad(ours.sum(), wanted), torch.autograd.grad(theirs.sum(), wanted))


def test_a_second_derivative_is_refused():
    case = CASES[0]
    qkv, *_ = inputs(case)
    (gradient,) = torch.autograd.grad(
        window_attention(qkv.requires_grad_(), 2, backend="triton").square().sum(), qkv, create_graph=True
    )
    with pytest.raises(ValueError, match=r"create_graph=True.*set_backend\(model, 'reference'\)"):
        gradient.sum().backward()


def test_a_gpu_takes_triton_by_name_only():
    with FakeTensorMode(allow_non_fake_inputs=True):
        qkv = torch.empty(1, 7, 7, 3, 1, 32, device="cuda")
    assert resolve_backend(qkv, 7, "auto") == "reference"
    assert resolve_backend(qkv, 7, "triton") == "triton"


@pytest.mark.usefixtures("unchecked")
def test_wrong_input_is_refused():
    qkv, frequencies, bias, _ = inputs(CASES[1])
    for changes, message in [
        (
            {"qkv": qkv.flatten(3, 4)},
            r"got a projection of shape \(1, 4, 5, 6, 16\); expected \(B, h, w, 3, heads, chan",
        ),
        ({"window": 0}, r"got window=0, shift=\(1, 1\); expected a window of at least 1 and smaller shifts"),
        ({"shift": (0, 3)}, r"got window=3, shift=\(0, 3\)"),
        ({"frequencies": frequencies[..., :4]}, r"got frequencies of shape \(2, 2, 4\) for 2 heads of 16 channels"),
        ({"bias": bias[:1]}, r"got a bias of shape \(1, 9, 9\) for 2 heads and windows of 3; expected \(2, 9, 9\)"),
        ({"frequencies": frequencies.to("meta")}, r"got frequencies on meta and a projection on"),
        ({"backend": "cuda"}, r"no backend named 'cuda'; choose auto or one of reference, cpu, triton"),
        ({"qkv": qkv.double(), "backend": "triton"}, r"got torch.float64 for backend='triton'; use float32"),
    ]:
        given = {"qkv": qkv, "window": 3, "shift": (1, 1), "frequencies": frequencies, "bias": bias} | changes
        with pytest.raises(ValueError, match=message):
            window_attention(**given)
    wide = torch.zeros(1, 2, 2, 3, 1, 80)
    for window, part in ((LARGEST_WINDOW + 1, qkv), (7, wide)):
        with pytest.raises(ValueError, match=r"it takes windows up to 16 and heads up to 64: use backend='auto'"):
            resolve_backend(part, window, "triton")
