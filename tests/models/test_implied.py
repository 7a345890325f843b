"""What files without a config imply: one row for each family and layout, true of every registered model."""

from dataclasses import replace

import pytest

from ropevit.models.registry import MODELS
from ropevit.models.vit import ViTConfig
from ropevit.models.vit.families import FAMILY_VARIANTS
from ropevit.models.vit.implied import IMPLIED, KEY_HINTS, family_of, implied_fields
from ropevit.rope import ROPE_FAMILIES

#: Start of a name -> family; all others are of the paper.
STARTS = {"eva02_": "eva02", "vit_pe_": "pe"}
NAMES = [name for variant in FAMILY_VARIANTS.values() for name in variant.names.values()]


def expected_family(name: str) -> str:
    if "_dinov3" in name:
        return "dinov3"
    return next((family for start, family in STARTS.items() if name.startswith(start)), "timm_rope")


def test_every_family_and_layout_of_one_family_has_its_row():
    assert IMPLIED.keys() == ROPE_FAMILIES.keys()
    assert all(sum(layout in layouts for layouts in IMPLIED.values()) == 1 for layout in KEY_HINTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_model_has_what_the_files_of_its_family_imply(name):
    config, family = MODELS[name], expected_family(name)
    assert family_of(config) == family
    for layout in IMPLIED[family]:
        implied = implied_fields(config, layout)
        assert {field: getattr(config, field) for field in implied} == implied


@pytest.mark.parametrize("name", ["rope_axial_deit_small_patch16_LS", "rope_mixed_ape_deit_small_patch16_LS"])
def test_models_of_the_paper_have_what_its_files_imply(name):
    config = MODELS[name]
    assert family_of(config) == "rope_vit"
    for layout in ("published", "timm"):
        implied = implied_fields(config, layout)
        assert {field: getattr(config, field) for field in implied} == implied


def test_a_convention_of_no_family_is_stored_in_our_layout_alone():
    config = MODELS["vit_small_patch16_dinov3"]
    assert isinstance(config, ViTConfig)
    other = replace(config, rope_convention=replace(config.rope_convention, axes="xy"))
    assert family_of(other) is None
    with pytest.raises(ValueError, match="which the timm layout cannot store; keep the ropevit layout"):
        implied_fields(other, "timm")
