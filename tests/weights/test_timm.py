"""Weights converted to timm's own model, and back."""

import pytest
import timm
import torch
from torch.testing import assert_close

from ropevit.models import ViT
from ropevit.models.vit.variants import TIMM_NAMES
from ropevit.weights import WeightsError, convert, create_model, load_model, load_weights

THEIRS = {
    "rope_axial": "vit_small_patch16_rope_224",
    "rope_mixed": "vit_small_patch16_rope_mixed_224",
    "rope_axial_ape": "vit_small_patch16_rope_ape_224",
    "rope_mixed_ape": "vit_small_patch16_rope_mixed_ape_224",
}


def pair(position, published, config) -> tuple[torch.nn.Module, ViT]:
    """timm's model and ours, filled with the same published weights."""
    state = published(position, width=384)
    if "freqs" in state:
        state["rope.freqs"] = state.pop("freqs").unflatten(-1, (6, -1))
    weights = {key: value for key, value in state.items() if not key.startswith("freqs_t_")}
    theirs = timm.create_model(THEIRS[position], depth=2, num_classes=10, img_size=64, dynamic_img_size=True).eval()
    theirs.load_state_dict(weights)
    ours = ViT(config(position, width=384, heads=6)).eval()
    report = load_weights(ours, theirs.state_dict())
    assert report.layout == ("timm" if "mixed" in position else "published")
    assert not report.dropped
    return theirs, ours


@pytest.mark.parametrize("position", ["rope_axial", "rope_mixed"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (48, 160)])
@torch.no_grad()
def test_logits_agree_at_any_size(position, height, width, published, config):
    theirs, ours = pair(position, published, config)
    images = torch.randn(2, 3, height, width)
    assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("position", ["rope_axial_ape", "rope_mixed_ape"])
@torch.no_grad()
def test_logits_agree_with_an_absolute_embedding_of_its_own_size(position, published, config):
    theirs, ours = pair(position, published, config)
    images = torch.randn(2, 3, 64, 64)
    assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-4)


def test_timms_load_checkpoint_reads_a_converted_file(published, tmp_path):
    state = published("rope_mixed_ape", width=384)
    convert({"model": state}, tmp_path / "timm.safetensors", "timm")
    options = {"depth": 2, "num_classes": 10, "img_size": 64, "checkpoint_path": str(tmp_path / "timm.safetensors")}
    model = timm.create_model(THEIRS["rope_mixed_ape"], **options)
    assert torch.equal(model.rope.freqs.flatten(2), state["freqs"])
    assert torch.equal(model.pos_embed, state["pos_embed"])


def test_every_alias_is_a_model_of_timm():
    assert all(timm.is_model(name) for name in TIMM_NAMES)


def test_timms_swin_layout_since_0_9_is_read(tmp_path):
    name, small = "swin_tiny_patch4_window7_224", {"num_classes": 5, "img_size": 224}
    theirs = timm.create_model(name, depths=(1, 2, 1, 1), **small).eval()
    assert "layers.3.downsample.reduction.weight" in theirs.state_dict()
    ours = create_model(name, depths=(1, 2, 1, 1), **small).eval()
    report = load_weights(ours, theirs.state_dict())
    assert (report.layout, report.head_replaced) == ("timm-swin", False)
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert_close(ours(image), theirs(image))
    other = create_model(name, depths=(1, 2, 1, 1), num_classes=3, img_size=224)
    with pytest.raises(WeightsError, match=r"only the head differs .num_classes 5, the model's 3"):
        load_weights(other, theirs.state_dict())
    assert load_weights(other, theirs.state_dict(), replace_head=True).head_replaced
    torch.save(theirs.state_dict(), tmp_path / f"{name}.pth")
    convert(tmp_path / f"{name}.pth", tmp_path / "ours.safetensors", model=ours.config)
    assert_close(load_model(tmp_path / "ours.safetensors")[0].head.weight, theirs.head.fc.weight)
