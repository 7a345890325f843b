import pytest

from ropevit.cli import main
from ropevit.models import list_models


@pytest.mark.full
def test_model_names_are_not_truncated_in_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main(["models"])
    printed = capsys.readouterr().out
    for name in list_models():
        assert f" {name} " in printed
    (row,) = [line.split() for line in printed.splitlines() if " rope_mixed_deit_base_patch16_LS " in line]
    assert row[1:] == ["86.44M", "17.56G", "83.8", "84.4", "yes"]
    assert "naver-ai/rope-vit README" in printed


def test_models_are_listed_by_pattern_and_counted_at_a_size(capsys):
    main(["models", "rope_axial_deit*", "--published", "--size", "384"])
    printed = capsys.readouterr().out
    assert printed.count("rope_axial_deit_") == 3
    assert "55.48G" in printed


def test_macs_of_swin_use_windows_of_one_32nd_of_the_image(capsys):
    main(["models", "swin_rope_mixed_tiny*", "--size", "384"])
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if "swin_rope_mixed_tiny_" in line]
    assert row[1:] == ["28.27M", "13.99G", "81.4", "79.5", "yes"]


def test_several_patterns_list_each_model_once_in_the_registrys_order(capsys):
    main(["models", "vit_pe_core_t*", "eva02_t*", "eva02_tiny_patch14_224"])
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if "_patch" in line]
    assert rows == ["eva02_tiny_patch14_224", "eva02_tiny_patch14_336", "vit_pe_core_tiny_patch16_384"]


def test_a_pattern_that_the_shell_replaced_by_a_file_is_explained(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "eva02_base.pth").touch()
    with pytest.raises(SystemExit):
        main(["models", "eva02_base.pth"])
    assert "which is a file here; put a pattern with * in quotes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "resnet*"], "no model matches 'resnet*'"),
        (["models", "deit_tiny", "resnet*"], "no model matches 'resnet*'"),
        (["models", "--size", "225"], "a height of 224"),
        (["models", "--size", "-16"], "a height of 16"),
        (["models", "swin*", "--size", "-16"], "got img_size=(-16, -16); expected pixels, above 0"),
    ],
)
def test_wrong_input_is_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
