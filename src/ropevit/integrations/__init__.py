"""Other libraries' doors to the models of this package; importing one registers them there."""

__all__: list[str] = []
