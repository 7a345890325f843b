"""Parameter groups of an optimizer: weight decay and layer-wise learning rates."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class HasLayers(Protocol):
    """A model that defines which parameters not to decay, and the layer of each."""

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay."""
        ...

    def layer_index(self, name: str) -> int:
        """Return the layer of a parameter, 0 for the embeddings."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Iterate over names and parameters, as `nn.Module.named_parameters`."""
        ...


def parameter_groups(
    model: HasLayers,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    scales: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Group parameters by weight decay and layer, for any optimizer of `torch.optim`.

    Biases, norms, LayerScale (all vectors) and the parameters of the model's `no_weight_decay` are not decayed. With
    `layer_decay` below 1, a layer n steps below the head has the learning rate lr * layer_decay^n; learned frequencies
    belong to their block.

    Args:
        model: A model with `no_weight_decay()` and `layer_index(name)`.
        lr: Learning rate of the head.
        weight_decay: Weight decay of the matrices.
        layer_decay: Factor from each layer to the one below it.
        scales: Learning rate factors by prefix of parameter names, such as {"backbone.": 0.1}.

    Returns:
        Groups with keys params, names, lr, lr_scale and weight_decay; every trainable parameter is in exactly one.

    Raises:
        ValueError: If no parameter name starts with a prefix of `scales`.

    Source: Clark et al. 2020 (arXiv:2003.10555), layer-wise decay, as used in BEiT (arXiv:2106.08254).
    """
    scales = scales or {}
    _check_prefixes(model, scales)
    kept = model.no_weight_decay()
    last = max(model.layer_index(name) for name, _ in model.named_parameters())
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim <= 1 or name in kept else weight_decay
        scale = layer_decay ** (last - model.layer_index(name))
        scale *= math.prod(factor for prefix, factor in scales.items() if name.startswith(prefix))
        empty = {"params": [], "names": [], "lr": lr * scale, "lr_scale": scale, "weight_decay": decay}
        group = groups.setdefault((scale, decay), empty)
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _check_prefixes(model: HasLayers, scales: Mapping[str, float]) -> None:
    """Raise ValueError if no parameter name starts with a prefix."""
    names = [name for name, _ in model.named_parameters()]
    for prefix in scales:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"got a learning rate factor for {prefix!r}, with which no parameter name starts")
