"""Evaluation of any task: the loop over image sizes, inference modes, results, reports, and scaling search."""

__all__: list[str] = []
