"""Pixels, crop and interpolation of the families of docs/pretrained.md, against timm's."""

import pytest
import timm
from timm.models import get_pretrained_cfg

from ropevit.data.imagenet import MEAN, STD
from ropevit.models.config import Preprocessing
from ropevit.models.preprocessing import preprocessing_of
from ropevit.models.registry import MODELS, get_config
from ropevit.models.vit.families import FAMILY_VARIANTS, FILE_NAMES

NAMES = [name for variant in FAMILY_VARIANTS.values() for name in variant.names.values()]


def as_timm(found: Preprocessing) -> tuple:
    return found.mean or MEAN, found.std or STD, found.crop or 1.0, "squash" if found.squash else "center", "bicubic"


def of_timm(cfg) -> tuple:
    return cfg.mean, cfg.std, cfg.crop_pct, cfg.crop_mode, cfg.interpolation


@pytest.mark.parametrize("name", NAMES)
def test_registered_models_have_timms_preprocessing(name):
    assert as_timm(preprocessing_of(MODELS[name])) == of_timm(get_pretrained_cfg(name))


@pytest.mark.parametrize("name", NAMES)
def test_other_weights_are_told_by_their_hub_id_or_file_name(name):
    for tagged in timm.list_pretrained(f"{name}.*"):
        wanted = of_timm(get_pretrained_cfg(tagged))
        for source in (f"timm/{tagged}", f"/weights/{tagged}.safetensors"):
            assert as_timm(preprocessing_of(MODELS[name], source)) == wanted, tagged


def timms_tag(file: str) -> str:
    """timm's tag of a file of EVA-02's or Perception Encoder's authors."""
    if file.startswith("PE-"):
        return "fb_tiling" if file.endswith("-Tiling") else "fb"
    if file.startswith("EVA02_CLIP"):
        return "merged2b"
    tag = file.split("_pt_")[1].removesuffix("_p14").replace("medft", "ft").replace("in21k", "in22k")
    return "mim_" + tag.replace("ft_in22k_ft", "ft_in22k")  # timm says "ft" once


@pytest.mark.parametrize("file", FILE_NAMES)
def test_files_of_the_authors_have_the_preprocessing_of_timms_copies(file):
    name = FILE_NAMES[file]
    wanted = get_pretrained_cfg(f"{name}.{timms_tag(file)}", allow_unregistered=False)
    for source in (f"authors/{file}", f"/weights/{file}.pt"):
        assert as_timm(preprocessing_of(MODELS[name], source)) == of_timm(wanted)


def test_the_authors_names_of_satellite_weights_tell_their_pixels():
    for source in ("facebook/dinov3-vitl16-pretrain-sat493m", "dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth"):
        assert preprocessing_of(get_config("dinov3_vitl16"), source).mean == (0.43, 0.411, 0.296)


def test_models_that_are_not_registered_have_what_their_family_agrees_in():
    small, of_tiny = {"width": 64, "depth": 2, "heads": 4}, preprocessing_of(MODELS["eva02_tiny_patch14_224"])
    assert preprocessing_of(get_config("eva02_tiny_patch14_336", **small)) == of_tiny._replace(crop=None)
    assert preprocessing_of(get_config("vit_pe_core_large_patch14_336", **small)).mean == (0.5, 0.5, 0.5)
    betwixt = "vit_betwixt_patch16_rope_reg4_gap_256"
    assert preprocessing_of(get_config(betwixt, depth=2)) == preprocessing_of(MODELS[betwixt])
    assert preprocessing_of(get_config(betwixt, **small)) == Preprocessing(crop=0.95)  # the family has two


def test_models_of_the_paper_have_that_of_their_architecture():
    for name in (
        "deit_small_patch16_LS",
        "rope_axial_ape_deit_base_patch16_LS",
        "swin_rope_mixed_tiny_patch4_window7_224",
    ):
        assert preprocessing_of(MODELS[name]) == Preprocessing()
