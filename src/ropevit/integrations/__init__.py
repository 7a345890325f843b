"""Integrations with timm and transformers (importing one registers our models there), export, and `add_rope`."""

__all__: list[str] = []
