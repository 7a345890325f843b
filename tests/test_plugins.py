"""Plug-ins: packages in a folder, installed as far as `importlib.metadata` can tell."""

from pathlib import Path

TESTS = Path(__file__).parent

#: Registers a position embedding at its import, and a task where its function is called.
GOOD = """
from dataclasses import replace
from ropevit.rope import ROPE_TYPES, register_rope_type
from tasks import toy

register_rope_type("coarse", replace(ROPE_TYPES["golden"], theta=7.0, label="RoPE-Coarse"))

def add_task():
    toy.register()
"""

CODE = f"""
import sys
sys.path.append({str(TESTS)!r})  # of the task
import ropevit
from ropevit.cli import main

model = ropevit.create_model("deit_tiny", position="rope_coarse", img_size=32, num_classes=0)
print(model.config.theta)
main(["train", "--list"])
main(["models", "deit_tiny*"])
"""


def install(folder: Path, package: str, entry: str, source: str | None) -> None:
    """Write a package of one module, and what a package manager notes of it."""
    notes = folder / f"{package}-1.0.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (notes / "entry_points.txt").write_text(f"[ropevit.plugins]\n{package} = {entry}\n")
    if source is not None:
        (folder / f"{package}.py").write_text(source)


def test_installed_plugins_are_loaded_once_and_a_broken_one_stops_nothing(run_command, tmp_path):
    install(tmp_path, "asunder", "asunder", "raise RuntimeError('needs ropevit 9\\nor later')")
    install(tmp_path, "gone", "gone:register", None)
    install(tmp_path, "good", "good:add_task", GOOD)
    install(tmp_path, "quitter", "quitter", "import sys; sys.exit('no license')")
    (tmp_path / "use.py").write_text(CODE)
    run = run_command(tmp_path, [], script=tmp_path / "use.py")
    assert run.code == 0, run.errors
    assert run.output.startswith("7.0\n")
    assert "toy/line" in run.output
    assert sorted(line for line in run.errors.splitlines() if line) == [
        "the plug-in asunder (asunder) cannot be used, RuntimeError: needs ropevit 9; update or uninstall asunder",
        "the plug-in gone (gone:register) cannot be used, ModuleNotFoundError: No module named 'gone'; update or "
        "uninstall gone",
        "the plug-in quitter (quitter) cannot be used, SystemExit: no license; update or uninstall quitter",
    ]
