"""Output directories of trainings: their files and names, summaries of them, and what is shared on the hub."""

__all__: list[str] = []
