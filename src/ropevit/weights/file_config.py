"""Checks that the config in a file matches its weights, before the model is built in memory."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ropevit.text import join_names
from ropevit.weights.errors import WeightsError, first_line

Module = TypeVar("Module", bound=nn.Module)


class TooLargeError(ValueError):
    """The config in a file is of a model with more parameters than the file has tensors."""


def build_without_memory(build: Callable[[], Module], entries: int, source: str) -> Module:
    """Build the model of a file's config on the meta device, limited to the number of tensors in the file.

    Args:
        build: Builds it.
        entries: Number of tensors in the file, the limit for the model's parameters.
        source: Name of the file in messages.

    Raises:
        WeightsError: If the config is invalid, or the model has more parameters.
    """
    thread, count = threading.get_ident(), 0

    def limit(*registered: Any) -> None:  # the module, a name, the parameter or None
        nonlocal count
        if threading.get_ident() == thread and registered[2] is not None:
            count += 1
            if count > 2 * entries + 100:  # modules may be built and discarded, or shared under several names
                raise TooLargeError(f"its model has more parameters than the file has tensors ({entries})")

    hook = register_module_parameter_registration_hook(limit)
    try:
        with torch.device("meta"):
            return build()
    except (ValueError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise WeightsError(f"the config in {source} is invalid: {first_line(error)}; save the model again") from error
    finally:
        hook.remove()


def check_matches_config(wanted: Mapping[str, Tensor], state: Mapping[str, Any], source: str) -> None:
    """Raise WeightsError unless names and shapes of weights equal those of the file's own config.

    Raises:
        WeightsError: Naming the first of those that differ.
    """
    want = {name: tuple(value.shape) for name, value in wanted.items()}
    have = {name: tuple(value.shape) for name, value in state.items() if isinstance(value, Tensor)}
    wrong = [name for name in {**want, **have} if want.get(name) != have.get(name)]
    if wrong:
        shapes = join_names(f"{name} {have.get(name, 'missing')} instead of {want.get(name, 'none')}" for name in wrong)
        raise WeightsError(
            f"the weights in {source} do not match its config: {shapes}; it is damaged or was changed: save it again"
        )
