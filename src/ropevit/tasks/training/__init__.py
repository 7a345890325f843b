"""Training of any task: its options, the engine, checkpoints, optimizers and logs."""

__all__: list[str] = []
