"""The table in docs/pretrained.md of what works on each family, cell by cell, with small models."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

import ropevit
import ropevit.integrations.timm
from ropevit.cli import main
from ropevit.integrations.export import export_torch
from ropevit.models import get_config, set_scaling
from ropevit.models.dense import DenseViT, DenseViTConfig, PyramidConfig
from ropevit.weights import load_dense_weights
from weights.families import fill, our_model

MODELS = {
    "DINOv3": "vit_small_plus_patch16_dinov3_qkvb",
    "EVA-02": "eva02_base_patch14_224",
    "EVA-02 CLIP": "eva02_base_patch16_clip_224",
    "timm's ViTs with rotation": "vit_betwixt_patch16_rope_reg4_gap_256",
    "Perception Encoder core": "vit_pe_core_tiny_patch16_384",
    "Perception Encoder lang, spatial": "vit_pe_spatial_gigantic_patch14_448",
}
PAGE = Path(__file__).parents[2] / "docs" / "pretrained.md"


def rows() -> list[list[str]]:
    text = PAGE.read_text().partition("## What works\n")[2].strip().split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def any_size(model, _):
    for size in ((64, 64), (48, 80), (96, 32)):
        images = torch.randn(1, 3, *size)
        assert model.forward_features(images).isfinite().all()
        assert model.forward_intermediates(images, [0, 1])[1].shape[2:] == (size[0] // 8, size[1] // 8)


def packed(model, _):
    images = [torch.randn(3, 64, 64), torch.randn(3, 48, 80)]
    found = model.forward_packed(model.pack(images))
    torch.testing.assert_close(found, torch.cat([model(image[None]) for image in images]), rtol=1e-4, atol=1e-4)


def scaled(model, _):
    images = torch.randn(1, 3, 96, 96)
    before = model(images)
    set_scaling(model, "ntk")
    assert (model(images) - before).abs().max() > 1e-4


def drawn(model, folder):
    file, out = ropevit.save_model(folder / "model.safetensors", model), folder / "figures"
    main(["figures", "all", "--checkpoint", str(file), "--images", "fashion", "--out", str(out)])
    assert {"frequencies.png", "distance.png", "entropy.png"} <= {path.name for path in out.iterdir()}


def exported(model, folder):
    report = export_torch(model, folder / "model.pt2")
    images = torch.randn(1, 3, 48, 80)
    torch.testing.assert_close(torch.export.load(report.path).module()(images), model(images), rtol=1e-3, atol=1e-3)


def to_transformers(model, _):
    from ropevit.integrations.transformers import from_ropevit

    images = torch.randn(1, 3, 48, 80)
    torch.testing.assert_close(from_ropevit(model)(pixel_values=images).logits, model(images))


def dense(model, _):
    plain = PyramidConfig(scales=(1,), channels=None)
    backbone, images = DenseViT(DenseViTConfig(body=model.config, pyramid=plain)).eval(), torch.randn(1, 3, 48, 80)
    load_dense_weights(backbone, model.state_dict())
    wanted = model.forward_intermediates(images, [-1], norm=True)
    torch.testing.assert_close(backbone(images).features, wanted, rtol=1e-4, atol=1e-4)


def video(model, _):
    replace(model.config, frames=4)


def adapted(model, folder):
    peft = pytest.importorskip("peft")
    images, before = torch.randn(2, 3, 48, 80), {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(images)
    lora = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["qkv"], modules_to_save=["head"]))
    assert torch.equal(lora.eval()(images), expected)  # adapters start at 0
    learned = [parameter for parameter in lora.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        for _ in range(2):
            torch.nn.functional.cross_entropy(lora.train()(images), torch.tensor([0, 1])).backward()
            torch.optim.SGD(learned, 0.05).step()
    found = lora.eval()(images)
    assert (found - expected).abs().max() > 1e-3
    merged = lora.merge_and_unload()
    torch.testing.assert_close(merged(images), found, rtol=1e-4, atol=1e-4)
    changed = {name for name, value in merged.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("head.") or name.endswith("qkv.weight")}
    loaded, _ = ropevit.load_model(ropevit.save_model(folder / "merged.safetensors", merged))
    assert torch.equal(loaded.eval()(images), merged(images))


def in_timm(model, _):
    """Return whether a model of this family is registered: one with its convention of rotation."""
    registered = [get_config(name.removeprefix("ropevit_")) for name in timm.list_models("ropevit_*")]
    assert any(config.rope is not None for config in registered)
    return model.config.rope_convention in [getattr(config, "rope_convention", None) for config in registered]


CHECKS = [any_size, packed, scaled, drawn, exported, to_transformers, adapted, dense, video, in_timm]


def cases():
    for check in CHECKS:
        for family in MODELS:
            slow = check in (drawn, exported)
            yield pytest.param(check, family, marks=[pytest.mark.full] if slow else [])


def test_the_table_has_a_row_for_each_check_and_a_column_for_each_family():
    head, _, *body = rows()
    assert head[1:] == [*MODELS]
    assert len(body) == len(CHECKS)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("check", "family"), [*cases()])
def test_each_cell_of_the_table_is_true(check, family, tmp_path):
    said = rows()[2 + CHECKS.index(check)][1 + [*MODELS].index(family)]
    model = fill(our_model(MODELS[family], num_classes=5))
    with torch.no_grad():
        if said == "refused":
            with pytest.raises(ValueError, match=r"got .*: |got .*; "):
                check(model, tmp_path)
        else:
            assert (check(model, tmp_path) is not False) == (said == "yes")
