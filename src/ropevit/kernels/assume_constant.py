"""`assume_constant`: marks functions whose results `torch.compile` may treat as constants."""

from collections.abc import Callable
from typing import TypeVar

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])


def assume_constant(function: FunctionT) -> FunctionT:
    """Mark a function as `torch.compiler.assume_constant_result` does, without importing torch._dynamo.

    That import takes longer than PyTorch's own, and most users of this package compile nothing.
    """
    function._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return function
