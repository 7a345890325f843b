"""The command line's first words: versions, help, and errors about wrong arguments."""

import shlex
import subprocess
import sys

import pytest

import ropevit
from ropevit.cli import VERBS, main


def error_of(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(arguments))
    assert stop.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    return shown.err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_has_one_line_per_verb_and_three_examples(arguments, capsys):
    main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ") and not line.startswith("  ropevit")] == [*VERBS]
    assert sum(line.startswith("  ropevit ") for line in lines) == 3
    assert "ropevit VERB --help for more" in lines[2]
    assert len(lines) < 24
    assert max(map(len, lines)) <= 105


def test_version_and_help_do_not_import_torch():
    code = "import sys; from ropevit.cli import main; main(['--version']); main([]); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert lines[0].startswith(f"ropevit {ropevit.__version__} (Python ")
    assert lines[-1] == "False"


@pytest.mark.parametrize("name", [name for name in ropevit.__all__ if name != "__version__"])
def test_public_names_are_attributes_of_the_package(name):
    assert getattr(ropevit, name).__name__ == name
    assert name in dir(ropevit)


def test_an_unknown_attribute_of_the_package_raises():
    assert ropevit.models.list_models is ropevit.list_models
    with pytest.raises(AttributeError, match="module 'ropevit' has no attribute 'nosuch'"):
        ropevit.nosuch  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("prdict photo.jpg", "no verb 'prdict'; did you mean predict?"),
        ("-v", "no verb '-v'; choose one of study, data, train"),
        ("models --nosuch", "Unrecognized options: --nosuch; see `ropevit models --help`"),
        ("models --siz 3", "Unrecognized options: --siz, 3; did you mean --size?; see `ropevit models --help`"),
        ("models --size x", "error: got 'x' for --size; expected a whole number; see `ropevit models --help`"),
        ("export a b", "error: got b, which the command does not take; see `ropevit export --help`"),
        ("study --train-size x", "error: got 'x' for --train-size; expected a whole number; see `ropevit study"),
        ("study --lr x", "error: got 'x' for --lr; expected a number; see `ropevit study --help`"),
        ("study --train-sizes 8 x", "error: got '8', 'x' for --train-sizes; expected whole numbers; see `ropevit"),
        (
            "train fashion --mixup x",
            "error: got 'x' for --mixup; expected a number; see `ropevit train fashion --help`",
        ),
        ("predict a --size abc", "error: got 'abc' for --size, which has another form; see `ropevit predict --help`"),
        (
            "eval --data a --precision half",
            "error: got 'half' for --precision; expected one of 'float32', 'bfloat16'; ",
        ),
        ("reproduce xyz", "error: got 'xyz' for table; expected one of 'vit', 'vit-ape', 'swin', 'all'; see `ropevit"),
        ("reproduce --only zzz", "error: no row matches 'zzz'; `ropevit reproduce all` shows all rows"),
        ("eval", "Missing from ropevit eval: --data"),
        ("data check nowhere", "error: found no folder nowhere; expected one with a folder of images for each class"),
        ("train fashion --lr -1", "error: got lr=-1.0; expected above 0\n"),
        (
            "train fashion --epochs",
            "error: got --epochs without a value; see `ropevit train fashion --help`",
        ),
        (
            "export --out a.onnx",
            "error: got no value of out: give it alone, without --out; see `ropevit export --help`",
        ),
        (
            "models dinov3",
            "error: no model matches 'dinov3'; '*dinov3*', in quotes, matches 12, such as vit_small_patch16",
        ),
        (
            "train fashion --device gpu",
            "got device 'gpu'; take auto, cpu, cuda, cuda:N, mps or xpu",
        ),
        ("train fashon", "no recipe named 'fashon'; did you mean fashion? `ropevit train --list` lists all "),
        ("train dino_swin_tiny", "no recipe named 'dino_swin_tiny'; did you mean detect/dino_swin_tiny, detect/dino_"),
        ("train zzz", "no recipe named 'zzz'; `ropevit train --list` lists all "),
        ("train segment/upernt", "no recipe named 'segment/upernt'; did you mean segment/upernet_"),
        ("train fashion --position rope_mix", "got position 'rope_mix' for deit_tiny; did you mean rope_mixed, "),
        ("study --no-quick", "Unrecognized options: --no-quick; did you mean --quick?; see `ropevit study --help`"),
    ],
)
def test_an_error_is_one_line(arguments, line, capsys):
    assert line in error_of(arguments, capsys)


#: A command line whose reader has ended before the first word.
UNREAD = """
import os, runpy, sys

ours, theirs = os.pipe()
os.dup2(theirs, 1)
os.close(ours)
os.close(theirs)
runpy.run_module("ropevit", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("verb", ["study", "train fashion"])
def test_help_into_a_pipe_whose_reader_has_ended_is_no_error(verb, run_command, tmp_path):
    script = tmp_path / "unread.py"
    script.write_text(UNREAD)
    ended = run_command(tmp_path, [*verb.split(), "--help"], script=script)
    assert (ended.code, ended.errors) == (1, "")


def test_a_long_path_in_an_error_is_not_broken(capsys):
    path = "/a/very/long/path/" + "of/many/folders/" * 9
    line = error_of(f"train fashion --position '{path} of words'", capsys)
    assert path in line
    assert "╭" not in line
