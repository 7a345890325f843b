"""Runs the wrapped model for a batch, and keeps its hidden states as tokens."""

from itertools import islice
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ropevit.models import Model
from ropevit.models.swin.model import Swin


class Outputs(NamedTuple):
    """Outputs of the wrapped model for a batch."""

    features: Tensor
    """Tokens after the final norm."""
    head: Tensor
    """Logits, or the pooled vector of a model without a head."""
    hidden_states: tuple[Tensor, ...] | None
    """Tokens before the norm, if requested: embedded, then after each block or stage."""
    attentions: tuple[Tensor, ...] | None = None
    """Attention weights, if requested."""


def outputs_of(model: Model, images: Float[Tensor, "B c H W"], *, hidden_states: bool) -> Outputs:
    """Run a model; passed as `method=` to its forward, so that its hooks (offloading, sharding) run."""
    if not hidden_states:
        features = model.forward_features(images)
        return Outputs(features, model.forward_head(features), None)
    states, tokens = states_of(model, images)
    features = model.norm_tokens(states[-1])
    return Outputs(features, model.forward_head(features), tuple(tokens))


def states_of(
    model: Model, images: Float[Tensor, "B c H W"], *, count: int | None = None
) -> tuple[list[Tensor], list[Float[Tensor, "B n C"]]]:
    """Return the first `count` hidden states, and the same as tokens; gradients of the outputs flow through these."""
    if not isinstance(model, Swin):
        states = list(islice(model.hidden_states(images), count))
        return states, states
    tokens: list[Tensor] = []

    def pass_on(state: Float[Tensor, "B h w C"]) -> Float[Tensor, "B h w C"]:
        tokens.append(as_tokens(state))
        return tokens[-1].unflatten(1, state.shape[1:3])

    return list(islice(model.hidden_states(images, pass_on), count)), tokens


def as_tokens(state: Tensor) -> Float[Tensor, "B n C"]:
    """Flatten a hidden state to tokens; a Swin's is a map with channels last."""
    return state.flatten(1, 2) if state.ndim == 4 else state
