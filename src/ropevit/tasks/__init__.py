"""What models are used for: one folder a task."""

__all__: list[str] = []
