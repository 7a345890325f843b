import pytest
import torch
from safetensors.torch import load_file

import ropevit
from ropevit.cli import main


def test_converting_a_published_file_and_back_is_exact(tmp_path, capsys):
    name = "rope_mixed_deit_tiny_patch16_LS"
    first, second, back = tmp_path / "ours.safetensors", tmp_path / "model.bin", tmp_path / "again.safetensors"
    ropevit.save_model(first, ropevit.create_model(name))
    main(["convert", str(first), str(second), "--to", "published"])
    assert "freqs" in torch.load(second, weights_only=True)["model"]
    main(["convert", str(second), str(back), "--model", name])
    one, two = load_file(first), load_file(back)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert str(back) in capsys.readouterr().out.replace("\n", "")


def test_the_best_or_the_ema_weights_of_a_training_are_converted(tmp_path):
    name = "rope_mixed_deit_tiny_patch16_LS"
    for file in ("best", "model", "model_ema"):
        ropevit.save_model(
            tmp_path / "run" / f"{file}.safetensors", ropevit.create_model(name, depth=1, width=48, heads=3)
        )
    for words, file in (([], "best"), (["--ema"], "model_ema")):
        out = tmp_path / f"{file}.safetensors"
        main(["convert", str(tmp_path / "run"), str(out), *words])
        wanted, found = load_file(tmp_path / "run" / f"{file}.safetensors"), load_file(out)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_files_are_overwritten_only_with_overwrite(tmp_path, capsys):
    path = tmp_path / "ours.safetensors"
    ropevit.save_model(path, ropevit.create_model("rope_axial_deit_tiny_patch16_LS"))
    before = path.read_bytes()
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(path), str(path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert path.read_bytes() == before
