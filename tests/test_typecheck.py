"""The checker of signatures: shapes, other types and the fields of dataclasses, each where checks are on."""

from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from typecheck import jaxtyped


@jaxtyped(typechecker=None)
def repeat(x: Float[Tensor, "n"], times: int) -> Float[Tensor, "n"]:
    return x.repeat(times)


@jaxtyped(typechecker=None)
def scale(factor: float) -> str:
    return str(factor) if factor else 0


@jaxtyped(typechecker=None)
@dataclass
class Pair:
    first: Float[Tensor, "n"]
    second: Float[Tensor, "n"]


@dataclass
class Named(Pair):
    name: str = ""


def test_a_wrong_argument_or_result_is_an_error():
    for call in (
        lambda: repeat(torch.zeros(3), 2),
        lambda: repeat(torch.zeros(3, 1), 1),
        lambda: scale("2"),
        lambda: scale(0),
        lambda: Pair(torch.zeros(2), torch.zeros(3)),
        lambda: jaxtyped(Named, typechecker=None)(torch.zeros(2), torch.zeros(2), 3),
    ):
        with pytest.raises(TypeError):
            call()


def test_what_fits_is_passed_on():
    assert repeat(torch.ones(3), times=1).tolist() == [1, 1, 1]
    assert scale(2) == "2"  # an int stands for a float
    assert Pair(torch.zeros(2), second=torch.ones(2)).second.sum() == 2


@pytest.mark.usefixtures("unchecked")
def test_nothing_is_checked_where_checks_are_off():
    assert len(repeat(torch.zeros(3), 2)) == 6
    assert scale(0) == 0
    assert Pair(1, 2).second == 2
