"""What the Triton kernels compile to for sm_90, without a GPU: wide loads and stores, and nothing kept in memory."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="no Triton here")

#: 128-bit loads and stores of a pass over one image: forward q, k; backward q, k, v; with sums rotated q, k, too.
WIDE = {"forward": (2, 2), "backward": (3, 3), "backward with sums": (5, 3)}

#: Registers of a thread that leave room for 28 warps on a multiprocessor (65536 registers): enough loads under way.
REGISTERS = 72


#: Registers of a thread that leave room for three windows of bfloat16 on a multiprocessor.
WINDOW_REGISTERS = 168


def compiled(run_command, folder, name, *options):
    """Run a script that compiles, with its cache in a folder, and give its lines."""
    run = run_command(folder, [folder, *options], script=Path(__file__).with_name(name))
    assert run.code == 0, run.errors
    return [json.loads(line) for line in run.output.splitlines()]


@pytest.fixture(scope="module", params=[4, pytest.param(12, marks=pytest.mark.full)])
def kernels(request, run_command, tmp_path_factory):
    """Each value of direction, dtype and frequencies at least once, or all kernels."""
    options = ("--all",) if request.param == 12 else ()
    found = compiled(run_command, tmp_path_factory.mktemp("triton"), "compile_triton.py", *options)
    assert len(found) == request.param
    return found


@pytest.fixture(scope="module")
def window_kernels(run_command, tmp_path_factory):
    return compiled(run_command, tmp_path_factory.mktemp("triton"), "compile_windows.py")


def test_every_kind_of_kernel_was_compiled(kernels):
    assert {kernel["direction"] for kernel in kernels} == set(WIDE)
    assert {kernel["dtype"] for kernel in kernels} == {"fp32", "bf16"}
    assert {kernel["per_image"] for kernel in kernels} == {False, True}


def test_memory_is_read_and_written_sixteen_bytes_at_a_time(kernels):
    for kernel in kernels:
        words, (loads, stores) = kernel["words"], WIDE[kernel["direction"]]
        assert words.get("ld.global.v4.b32") == loads, kernel
        assert words.get("st.global.v4.b32") == stores, kernel
        narrow = {word for word in words if word.startswith("st.") and "v4" not in word}
        assert narrow <= ({"st.global.b32"} if kernel["direction"] == "backward with sums" else set()), kernel


def test_nothing_is_spilled_and_no_sum_is_atomic(kernels):
    for kernel in kernels:
        assert not [word for word in kernel["words"] if "local" in word or word.startswith(("atom", "red"))], kernel
        assert kernel["shared"] <= 4096


def test_the_assembler_needs_no_stack_and_few_registers(kernels):
    if kernels[0]["ptxas"] is None:
        pytest.skip("Triton came without ptxas")
    for kernel in kernels:
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in kernel["ptxas"], kernel
        assert int(kernel["ptxas"].split("Used ")[1].split()[0]) <= REGISTERS, kernel


@pytest.mark.full
def test_attention_in_windows_stays_in_registers_and_multiplies_on_tensor_cores(window_kernels):
    assert len(window_kernels) == 9
    for kernel in window_kernels:
        words = kernel["words"]
        assert not [word for word in words if "local" in word or word.startswith(("atom", "red"))], kernel
        assert words.get("ld.global.v4.b32"), kernel
        whole = kernel["dtype"] == "bf16" and kernel["kernel"] != "bias_kernel"  # all queries at once
        assert ("wgmma" in words) == whole, kernel
        assert kernel["shared"] <= 32768


@pytest.mark.full
def test_the_assembler_needs_no_stack_for_attention_in_windows(window_kernels):
    if window_kernels[0]["ptxas"] is None:
        pytest.skip("Triton came without ptxas")
    for kernel in window_kernels:
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in kernel["ptxas"], kernel
        assert int(kernel["ptxas"].split("Used ")[1].split()[0]) <= WINDOW_REGISTERS, kernel
