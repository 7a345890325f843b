import torch
from torch import nn

from ropevit.tasks.dense.tracing import make_inputs_contiguous, make_output_contiguous


def test_inputs_and_outputs_are_contiguous_copies_with_the_same_values():
    seen = []
    x, bias = torch.randn(3, 2, 4).transpose(0, 1), torch.randn(4)

    class Add(nn.Module):
        def forward(self, x, bias, scale):
            seen.extend((x, bias))
            return (x + bias).transpose(0, 1) * scale

    module = Add()
    make_inputs_contiguous(module)
    make_output_contiguous(module)
    found = module(x, bias=bias, scale=2)
    assert torch.equal(found, (x + bias).transpose(0, 1) * 2)
    assert found.is_contiguous()
    assert seen[0].is_contiguous()
    assert seen[1].data_ptr() != bias.data_ptr(), "also where no copy is needed: it must not depend on the size"
