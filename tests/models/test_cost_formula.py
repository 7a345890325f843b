"""The formula of the cost of a model is what counting gives."""

import pytest

from ropevit.models import MODELS, get_config
from ropevit.models.cost import count_macs, count_parameters
from ropevit.models.cost_formula import compute_cost

#: A model of each kind: plain, absolute embedding, registers, SwiGLU, attention pooling, relative bias, windows.
SOME = (
    "rope_mixed_ape_deit_tiny_patch16_LS",
    "vit_small_plus_patch16_dinov3_qkvb",
    "eva02_tiny_patch14_224",
    "vit_pe_core_tiny_patch16_384",
    "swin_tiny_patch4_window7_224",
)


def assert_equal(name, size):
    config = get_config(name, img_size=size)
    assert compute_cost(config, size, size) == (count_parameters(config), count_macs(config, size, size)), name


@pytest.mark.parametrize("name", SOME)
def test_the_formula_is_what_is_counted(name):
    assert_equal(name, 224)


@pytest.mark.full
@pytest.mark.parametrize("name", MODELS)
def test_the_formula_is_what_is_counted_of_every_model(name):
    assert_equal(name, 16 * 14)
    assert_equal(name, 16 * 14 * 2)


@pytest.mark.parametrize("size", [(40, 72), (100, 30)])
def test_windows_of_a_swin_are_padded(size):
    config = get_config("swin_rope_mixed_tiny_patch4_window7_224", img_size=size)
    assert compute_cost(config, *size).macs == count_macs(config, *size)


def test_images_that_patches_do_not_tile_are_refused():
    with pytest.raises(ValueError, match="a height of 224"):
        compute_cost(get_config("deit_tiny_patch16_LS"), 225, 224)
