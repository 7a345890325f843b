import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import ropevit
from ropevit.models import Swin, SwinConfig, ViT
from ropevit.rope import CONVENTION
from ropevit.weights import WeightsError, create_model, load_model, push_to_hub, save_model, save_pretrained

CLASSES = [*"abcdefghi", "| `j` <k>"]
FACTS = {"mean": [0.5, 0.5, 0.5], "note": "a | b\n<script>", "nothing": None}


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def states_equal(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def swin():
    return Swin(
        SwinConfig(width=16, depths=(1, 1), heads=(1, 1), position="rope_axial", img_size=(32, 32), num_classes=3)
    )


def test_a_saved_folder_is_loaded_bit_for_bit(config, tmp_path):
    model = ViT(config("rope_mixed")).eval()
    folder = save_pretrained(
        torch.nn.DataParallel(model), tmp_path / "mine", classes=CLASSES, metadata=FACTS, license="mit"
    )
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "model.safetensors"]
    again, info = load_model(folder)
    assert states_equal(model, again)
    assert (again.config, info.classes, info.metadata) == (model.config, CLASSES, FACTS)


def test_a_card_has_front_matter_that_the_hub_reads(config, tmp_path):
    folder = save_pretrained(
        ViT(config("rope_mixed")), tmp_path / "mine", classes=CLASSES, metadata=FACTS, license="mit"
    )
    text = (folder / "README.md").read_text()
    assert front_matter(text) == {
        "library_name": "ropevit",
        "pipeline_tag": "image-classification",
        "license": "mit",
        "tags": ["ropevit", "vit", "rope_mixed"],
    }
    assert ModelCard(text).data.library_name == "ropevit"
    assert 'ropevit.load_model("mine")' in text
    assert CONVENTION["pairs"] in text
    assert "| width | 96 |" in text
    assert "| img_size | [64, 64] |" in text
    assert "| note | a \\| b\\n&lt;script> |" in text
    assert "`i`, `| 'j' <k>`." in text
    count = sum(value.numel() for value in ViT(config("rope_mixed")).parameters())
    assert f"| parameters | {count:,} |" in text


def test_a_card_without_rotation_or_license_claims_neither(config, tmp_path):
    text = (save_pretrained(ViT(config("ape")), tmp_path / "mine") / "README.md").read_text()
    assert front_matter(text)["tags"] == ["ropevit", "vit", "ape"]
    assert "license" not in front_matter(text)
    assert "License of the weights: not stated by their owner." in text
    assert "otation" not in text
    assert "Classes" not in text


def test_files_in_a_folder_are_replaced_only_if_asked(config, tmp_path):
    folder = save_pretrained(ViT(config()), tmp_path / "mine")
    (folder / "README.md").write_text("mine")
    with pytest.raises(WeightsError, match=r"mine already holds model.safetensors, README.md; choose another folder"):
        save_pretrained(ViT(config()), folder)
    assert (folder / "README.md").read_text() == "mine"
    save_pretrained(ViT(config()), folder, overwrite=True)
    assert (folder / "README.md").read_text() != "mine"
    with pytest.raises(WeightsError, match=r"got the file .*README.md for a folder"):
        save_pretrained(ViT(config()), folder / "README.md")


def test_wrong_models_and_licenses_are_refused(config, tmp_path):
    with pytest.raises(WeightsError, match=r"expected a model of ropevit\.create_model"):
        save_pretrained(torch.nn.Linear(2, 2), tmp_path / "mine")
    with pytest.raises(WeightsError, match=r"got the license 'Apache 2'; expected an identifier of the hub, such as"):
        save_pretrained(ViT(config()), tmp_path / "mine", license="Apache 2")
    assert not (tmp_path / "mine").exists()


def test_only_a_folder_with_one_file_is_a_checkpoint(config, tmp_path):
    folder = save_pretrained(ViT(config()), tmp_path / "mine")
    save_model(folder / "best.safetensors", ViT(config()))
    with pytest.raises(WeightsError, match="mine is a directory; give a checkpoint file in it"):
        load_model(folder)


def test_a_pushed_model_is_loaded_by_its_name(local_hub, config):
    model = swin()
    address = push_to_hub(model, "me/tiny-swin", classes=["x", "y", "z"], metadata={"crop": 1.0}, private=True)
    assert address == f"{local_hub.address}/me/tiny-swin"
    assert local_hub.files["me/tiny-swin"].keys() == {".gitattributes", "README.md", "model.safetensors"}
    assert local_hub.private["me/tiny-swin"]
    text = local_hub.files["me/tiny-swin"]["README.md"].decode()
    assert "# tiny-swin" in text
    assert 'load_model("me/tiny-swin")' in text
    again, info = load_model("me/tiny-swin")
    assert states_equal(model, again)
    assert (again.config, info.classes, info.metadata) == (model.config, ["x", "y", "z"], {"crop": 1.0})
    vit = ViT(config("rope_mixed"))
    push_to_hub(vit, "me/vit")
    sizes = {"width": 96, "depth": 2, "heads": 3, "img_size": 64, "num_classes": 10}
    assert states_equal(create_model("rope_mixed_deit_small_patch16_LS", "me/vit", **sizes), vit)


def test_nothing_on_the_hub_is_overwritten_silently(local_hub, config):
    local_hub.add("me/vit", README_md=b"mine", notes_txt=b"mine")
    with pytest.raises(WeightsError, match=r"'me/vit' on the hub already holds README.md, notes.txt; choose another"):
        push_to_hub(ViT(config()), "me/vit")
    assert local_hub.commits["me/vit"] == 1
    with pytest.raises(WeightsError, match="'me/vit' exists on the hub and is public; make it private there"):
        push_to_hub(ViT(config()), "me/vit", private=True, overwrite=True)
    push_to_hub(ViT(config()), "me/vit", overwrite=True)
    held = local_hub.files["me/vit"]
    assert held["notes.txt"] == b"mine"
    assert held["README.md"] != b"mine"
    local_hub.add("me/empty", private=True)
    push_to_hub(ViT(config()), "me/empty")
    assert "model.safetensors" in local_hub.files["me/empty"]


@pytest.mark.parametrize(
    ("repo", "options", "message"),
    [
        ("vit", {}, "got 'vit' for a repository of the hub; expected OWNER/NAME"),
        ("me/vit--", {}, "cannot upload to 'me/vit--': "),
        ("you/vit", {}, r"no permission to write to 'you/vit' on the hub \(You don't have the rights"),
        ("me/vit", {"token": "hf_old"}, "the hub does not accept the token for 'me/vit'; log in with `hf auth login`"),
        ("me/vit", {"license": "gpl"}, r"cannot upload to 'me/vit': Invalid metadata .*\"license\" must be one of"),
    ],
)
def test_refusals_of_the_hub_are_one_line(repo, options, message, local_hub, config):
    with pytest.raises(WeightsError, match=message) as refusal:
        push_to_hub(ViT(config()), repo, **options)
    assert "\n" not in str(refusal.value)
    assert all(files.keys() == {".gitattributes"} for files in local_hub.files.values())


def test_a_commit_of_another_process_is_not_overwritten(local_hub, config, monkeypatch):
    local_hub.add("me/vit")
    create = huggingface_hub.HfApi.create_commit

    def later(*arguments, **options):
        local_hub.commits["me/vit"] += 1
        return create(*arguments, **options)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_commit", later)
    with pytest.raises(WeightsError, match=r"'me/vit' on the hub was changed at the same time \(A commit has happened"):
        push_to_hub(ViT(config()), "me/vit")


def test_without_a_hub_or_a_token_nothing_is_prepared(local_hub, monkeypatch):
    local_hub.shutdown()
    local_hub.server_close()
    with pytest.raises(WeightsError, match=r"cannot reach the hub to upload to 'me/vit' .*; check the network"):
        push_to_hub(swin(), "me/vit")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(WeightsError, match="without a token of the hub; log in with `hf auth login`, or set HF_TOKEN"):
        push_to_hub(torch.nn.Identity(), "me/vit")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set; unset it, or save to a folder"):
        ropevit.push_to_hub(torch.nn.Identity(), "me/vit")
