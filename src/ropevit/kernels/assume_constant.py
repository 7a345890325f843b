"""Functions whose results `torch.compile` may take for constants."""

from collections.abc import Callable
from typing import TypeVar

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])


def assume_constant(function: FunctionT) -> FunctionT:
    """Mark a function as `torch.compiler.assume_constant_result` does, without importing all of dynamo for it.

    That import takes longer than PyTorch's own, and most who import this package compile nothing.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function
