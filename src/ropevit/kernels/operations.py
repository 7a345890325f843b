"""Custom operations whose calls cost little: what a small model spends on a rotation is mostly the call."""

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("ropevit", "FRAGMENT")


def define_operation(
    name: str,
    function: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    mutates_args: tuple[str, ...] = (),
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> Any:
    """Define the operation ropevit::NAME, unless an earlier import of the module did, and return it.

    `torch.library.custom_op` does the same and also runs Python code for autograd and for the versions of changed
    tensors in every call. Here autograd is registered only where it is given, and the caller of an operation that
    changes a tensor increments its version (`torch.autograd.graph.increment_version`).

    Args:
        name: Name in `torch.ops.ropevit`.
        function: What it computes, with types from which PyTorch infers its schema.
        fake: The same for tensors without values: shapes, strides, dtypes.
        mutates_args: Arguments that it changes.
        backward: Its gradient, as `torch.library.register_autograd` takes it.
        setup_context: What saves tensors for `backward`, if it needs any.
    """
    if not hasattr(torch.ops.ropevit, name):
        schema = torch.library.infer_schema(function, mutates_args=mutates_args, op_name=name)
        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"ropevit::{name}", fake, lib=_LIBRARY)
        if backward is not None:
            torch.library.register_autograd(f"ropevit::{name}", backward, setup_context=setup_context, lib=_LIBRARY)
    return getattr(torch.ops.ropevit, name).default
