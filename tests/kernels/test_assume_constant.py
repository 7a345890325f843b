import subprocess
import sys

import torch

from ropevit.kernels.assume_constant import assume_constant


def test_functions_are_marked_as_pytorch_marks_them():
    def ours():
        return 1

    def theirs():
        return 1

    assert vars(assume_constant(ours)) == vars(torch.compiler.assume_constant_result(theirs)) != {}


def test_the_command_line_starts_without_dynamo():
    code = (
        "import sys, ropevit.cli; print([name for name in ('torch._dynamo', 'timm', 'sympy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
