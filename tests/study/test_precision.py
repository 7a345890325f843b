import pytest
import torch

from ropevit.machine import available_cores, environment
from ropevit.study.precision import autocast, resolve_precision


def test_precision_is_what_was_asked_for():
    cpu = torch.device("cpu")
    assert resolve_precision("float32", cpu) == torch.float32
    assert resolve_precision("bfloat16", cpu) == torch.bfloat16
    assert resolve_precision("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(ValueError, match="got precision 'half'"):
        resolve_precision("half", cpu)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_computed_in_the_precision(dtype):
    with autocast(torch.device("cpu"), dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_the_environment_names_what_made_a_result():
    facts = environment(torch.device("cpu"), torch.bfloat16, workers=2, threads=3)
    assert facts["torch"] == torch.__version__
    assert (facts["precision"], facts["workers"], facts["threads"]) == ("bfloat16", 2, 3)
    assert facts["device"].startswith("cpu: ")
    assert facts["cores"] == available_cores() >= 1
