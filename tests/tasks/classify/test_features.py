"""Features of image files, and `ropevit predict --features`."""

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch.testing import assert_close

import ropevit
from ropevit.cli import main
from ropevit.data.images import read_image
from ropevit.models import SwinConfig, ViTConfig, build_model
from ropevit.tasks.classify.features import extract, extract_files
from ropevit.tasks.classify.predict import InputTransform, Unreadable


@pytest.fixture
def vit():
    return build_model(
        ViTConfig(
            img_size=(16, 16),
            patch_size=8,
            width=16,
            depth=1,
            heads=2,
            position="rope_mixed",
            num_registers=2,
            num_classes=0,
        )
    ).eval()


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photos/cat.jpg"
    path.parent.mkdir()
    Image.effect_noise((40, 24), 90).convert("RGB").save(path)
    return path


def test_patches_stand_on_their_grid_behind_the_prefix_tokens(vit):
    images = torch.randn(2, 3, 16, 24)
    tokens = vit.forward_features(images)
    for index, found in enumerate(extract(vit, images)):
        assert (found.height, found.width, *found.patches.shape) == (16, 24, 2, 3, 16)
        assert_close(found.prefix, tokens[index, :3])
        assert_close(found.patches[1, 2], tokens[index, -1])
        assert_close(found.pooled, vit.forward_head(tokens)[index])


def test_a_swin_has_a_map_and_no_prefix_tokens():
    swin = build_model(
        SwinConfig(
            position="rope_mixed", img_size=(32, 32), width=8, depths=(1, 1), heads=(1, 2), window_size=4, num_classes=0
        )
    )
    (found,) = extract(swin, torch.randn(1, 3, 32, 48))
    assert (*found.patches.shape, *found.prefix.shape, *found.pooled.shape) == (4, 6, 16, 0, 16, 16)


def test_files_come_in_order_and_unreadable_ones_give_the_reason(vit, photo, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    transform = InputTransform(size=(16,), multiple=8, keep_aspect=True)
    found = list(extract_files(vit, [photo, broken, photo], transform, batch_size=2))
    assert [isinstance(one, Unreadable) for one in found] == [False, True, False]
    (expected,) = extract(vit, transform.prepare(read_image(photo))[None])
    assert_close(found[2].patches, expected.patches)
    with pytest.raises(ValueError, match="got batch_size=0; expected at least 1"):
        next(extract_files(vit, [photo], transform, batch_size=0))


def test_the_command_line_writes_a_file_for_each_image(vit, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ropevit.save_model(tmp_path / "model.safetensors", vit)
    (photo.parent / "broken.png").write_bytes(b"no image")
    words = ["predict", str(photo.parent), "--checkpoint", "model.safetensors", "--device", "cpu"]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--size", "16", "24", "--features"])
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert "broken.png" in output.err
    assert "wrote the features of 1 image to features" in output.out
    with safe_open(tmp_path / "features/cat.safetensors", framework="pt") as file:
        facts = file.metadata()
        assert (facts["height"], facts["width"], facts["image"], facts["scaling"]) == ("16", "24", "cat.jpg", "none")
        assert file.get_tensor("patches").shape == (2, 3, 16)
        assert file.get_tensor("prefix").shape == (3, 16)


def test_options_for_classes_are_refused_and_a_model_without_a_head_is_told_of_features(vit, photo, tmp_path, capsys):
    ropevit.save_model(tmp_path / "model.safetensors", vit)
    words = ["predict", str(photo), "--checkpoint", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "out")]
    for more, line in (
        (["--features", "--topk", "3"], "got --features with --topk or --inference-mode, which are for classes"),
        ([], "has no head; expected a classifier: `ropevit predict --features` writes its features"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*words, *more])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert line in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
