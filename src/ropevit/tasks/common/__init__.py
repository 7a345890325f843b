"""What all tasks train with: one engine, its checkpoints, its optimizers and its logs."""

__all__: list[str] = []
