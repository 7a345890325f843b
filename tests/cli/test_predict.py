import pytest
import torch
from PIL import Image

import ropevit
from ropevit.cli import main
from ropevit.models import ViT, ViTConfig


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.effect_noise((90, 60), 90).convert("RGB").save(path)
    return path


def test_a_study_checkpoint_names_its_own_classes(finished, my_images, capsys):
    checkpoint = finished / "runs/zoom-rope_mixed-seed0/model.safetensors"
    main(["predict", str(my_images / "red/3.png"), str(my_images / "blue/1.png"), "--checkpoint", str(checkpoint)])
    printed = capsys.readouterr().out
    assert printed.count("at 16 x 16 pixels") == 2
    for name in ("red", "green", "blue"):
        assert printed.count(f" {name} ") == 2
    assert printed.count("%") == 6


def test_swin_takes_any_size_with_windows_of_a_32nd_of_it(photo, tmp_path, capsys, monkeypatch):
    name, made = "swin_rope_mixed_tiny_patch4_window7_224", []
    torch.save({"model": ropevit.create_model(name).state_dict()}, tmp_path / "weights.pth")
    create = ropevit.weights.create_model
    monkeypatch.setattr(ropevit.weights, "create_model", lambda *a, **k: made.append(create(*a, **k)) or made[-1])
    weights = ["--model", name, "--checkpoint", str(tmp_path / "weights.pth")]
    main(["predict", str(photo), *weights, "--size", "50", "83"])
    main(["predict", str(photo), *weights, "--size", "65", "--whole"])
    main(["predict", str(photo), *weights, "--size", "60"])
    printed = capsys.readouterr().out
    for size in ("50 x 83", "65 x 98", "60 x 60"):
        assert f"at {size} pixels" in printed
    assert [model.config.window_size for model in made] == [2, 3, 2]


def test_published_names_speak_of_imagenet_at_any_size_and_shape(photo, tmp_path, capsys):
    name = "rope_mixed_deit_tiny_patch16_LS"
    model = ropevit.create_model(name)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.linspace(0, 20, 1000))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    main(
        [
            "predict",
            str(photo),
            "--model",
            name,
            "--checkpoint",
            str(tmp_path / "weights.pth"),
            "--size",
            "64",
            "--whole",
        ]
    )
    printed = capsys.readouterr().out
    assert "at 64 x 96 pixels" in printed
    lines = [line for line in printed.splitlines() if "%" in line]
    assert len(lines) == 5
    assert "toilet tissue" in lines[0]


def test_a_file_of_ours_says_its_size_its_pixels_and_any_class_name(photo, tmp_path, capsys):
    config = ViTConfig(position="ape", width=16, depth=1, heads=2, patch_size=8, img_size=(32, 64), num_classes=2)
    names = ["dog[/b]", "[red]cat"]
    path = ropevit.save_model(
        tmp_path / "own.safetensors", ViT(config), classes=names, metadata={"mean": [0.4, 0.5, 0.6], "std": 0.2}
    )
    main(["predict", str(photo), "--checkpoint", str(path)])
    printed = capsys.readouterr().out
    assert "at 32 x 64 pixels" in printed
    assert all(name in printed for name in names)
    ropevit.save_model(path, ViT(config), classes=names, metadata={"mean": [0.4, 0.5]})
    with pytest.raises(SystemExit):
        main(["predict", str(photo), "--checkpoint", str(path)])
    assert "gives mean=[0.4, 0.5] for images of 3 channels" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict"], "got no image"),
        (["predict", "PHOTO"], "got neither --model nor --checkpoint"),
        (["predict", "gone.jpg", "--model", "deit_tiny_patch16_LS"], "no image file or folder at gone.jpg"),
        (["predict", "PHOTO", "--model", "deit_huge"], "no model named 'deit_huge'"),
        (["predict", "PHOTO", "--checkpoint", "FIELD"], "names no classes; predict takes classifiers"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--size", "20"], "resize or pad it to 16 or 24"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--top", "0"], "got top=0"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--device", "tpu"], "device 'tpu'"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--device", "meta"], "device 'meta'"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--size", "-8"], "got size (-8,); expected pixels, above 0"),
        (["predict", "PHOTO", "--checkpoint", "ZOOM", "--model", "deit_tiny_patch16_LS"], "leave out --model"),
        (
            ["predict", "PHOTO", "--model", "deit_tiny_patch16_LS", "--checkpoint", ""],
            "is a directory; give a checkpoint file",
        ),
    ],
)
def test_wrong_input_is_one_line(finished, photo, capsys, arguments, message):
    names = {
        "PHOTO": str(photo),
        "FIELD": str(finished / "runs/field-ape-seed0/model.safetensors"),
        "ZOOM": str(finished / "runs/zoom-ape-seed0/model.safetensors"),
    }
    with pytest.raises(SystemExit) as stop:
        main([names.get(word, word) for word in arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
