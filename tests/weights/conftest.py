"""Small published checkpoints, and the configs that fit them."""

import pytest

from ropevit.models import ViTConfig
from weights.checkpoints import filled, small_shapes


@pytest.fixture(scope="session")
def published():
    """Return the state dict of a small published model; the default is that of the golden cases."""
    return lambda position="rope_mixed", **sizes: filled(small_shapes(position, **sizes))


@pytest.fixture(scope="session")
def config():
    """Return the config that fits `published`."""

    def make(position="rope_mixed", **changes) -> ViTConfig:
        sizes = {"width": 96, "depth": 2, "heads": 3, "img_size": (64, 64), "num_classes": 10}
        return ViTConfig(position=position, **(sizes | changes))

    return make
