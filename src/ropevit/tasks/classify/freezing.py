"""Train the head of a classifier alone."""

from torch import nn


def freeze_all_but_head(model: nn.Module) -> None:
    """Leave out of a training all parameters of a classifier but those of its `head`."""
    model.requires_grad_(False)
    model.get_submodule("head").requires_grad_(True)
