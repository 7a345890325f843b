"""Names of the families of docs/pretrained.md: aliases, hub ids and licenses as in timm, downloads, heads."""

from dataclasses import replace

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg

import ropevit
from ropevit.cli import main
from ropevit.models.registry import MODELS, PUBLISHED, weights_license
from ropevit.models.vit.families import FAMILY_VARIANTS
from ropevit.weights import WeightsError, create_model, load_weights
from weights.families import DINOV3, EVA02, PE, TIMM_ROPE, our_model, timm_model

NAMES = [name for variant in FAMILY_VARIANTS.values() for name in variant.names.values()]


@pytest.mark.parametrize("name", NAMES)
def test_hub_ids_and_licenses_are_those_of_timm(name):
    cfg = get_pretrained_cfg(name)
    assert (PUBLISHED[name], weights_license(name)) == (cfg.hf_hub_id, cfg.license)
    assert MODELS[name].num_classes == cfg.num_classes
    assert MODELS[name].img_size == cfg.input_size[1:]


def test_models_are_listed_by_timms_names_or_the_authors():
    eupe = "vit_tiny_patch16_dinov3_qkvb"  # has the architecture of DINOv3, and other authors
    assert [*ropevit.list_models("dinov3*"), eupe] == sorted(ropevit.list_models("*_dinov3*"), key=eupe.__eq__)
    assert ropevit.list_models("*dinov3*") == ropevit.list_models("*_dinov3*")
    assert ropevit.list_models("dinov3_vits16") == ["vit_small_patch16_dinov3_qkvb"]
    assert set(ropevit.list_models("deit*")) == {
        f"deit_{size}_patch16_LS" for size in ("tiny", "small", "base", "large")
    }


@pytest.mark.parametrize("name", [*DINOV3, *EVA02, *TIMM_ROPE, *PE])
@torch.no_grad()
def test_a_model_without_a_head_returns_the_pooled_features(name):
    weights = timm_model(name).state_dict()
    whole, headless = our_model(name), our_model(name, num_classes=0)
    load_weights(whole, weights)
    load_weights(headless, weights, replace_head=True)
    images, pooled = torch.randn(1, 3, 64, 64), []
    whole.head.register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
    whole(images)
    torch.testing.assert_close(headless(images), pooled[0])
    assert headless(images).shape == (1, 64)


def test_pretrained_true_downloads_timms_copy(monkeypatch, tmp_path):
    name, asked = "vit_small_patch16_dinov3_qkvb", []
    config = replace(MODELS[name], width=64, depth=2, heads=4, patch_size=8, img_size=(64, 64))
    monkeypatch.setitem(MODELS, name, config)
    theirs = timm_model(name).state_dict()
    save_file(theirs, tmp_path / "model.safetensors")

    def download(repo, file, **_):
        asked.append((repo, file))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    for given in (name, "dinov3_vits16"):
        assert torch.equal(create_model(given, pretrained=True).norm.weight, theirs["norm.weight"])
    assert asked == [(f"timm/{name}.lvd1689m", "model.safetensors")] * 2


class Answer:
    """As much of an HTTP response as the hub's errors need."""

    headers: dict = {}  # noqa: RUF012
    request = None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.GatedRepoError("gated", response=Answer()), "is gated; ask for access on its page, then log in"),
        (
            errors.LocalEntryNotFoundError("offline"),
            "neither a file nor in the hub's cache, and the hub is unreachable",
        ),
    ],
)
def test_gating_and_missing_network_are_told_in_a_line(error, message, monkeypatch):
    def download(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda _url: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(WeightsError, match=message) as refusal:
        load_weights(our_model("dinov3_vits16"), "facebook/dinov3-vits16-pretrain-lvd1689m")
    assert "\n" not in str(refusal.value)


def test_the_command_lists_parameters_license_and_hub_id(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main(["models", "dinov3_vits16*"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(" vit_")]
    assert rows[0] == [
        "vit_small_patch16_dinov3_qkvb",
        "21.60M",
        "4.70G",
        "dinov3-license",
        "timm/vit_small_patch16_dinov3_qkvb.lvd1689m",
    ]
    assert len(rows) == 4
