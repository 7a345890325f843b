"""Shared by all tasks: the training engine, checkpoints, optimizers, logs and the loop of evaluations."""

__all__: list[str] = []
