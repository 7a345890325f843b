"""The wheel and the source distribution: built, installed apart from this checkout, and used."""

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from ropevit import __version__

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")


def run(*words, **options):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(UV, "build", "--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, ROOT)
    return folder


def test_both_distributions_hold_the_package_its_data_and_the_licenses(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel, tarfile.open(next(built.glob("*.tar.gz"))) as source:
        names = set(wheel.namelist())
        packed = {name.partition("/")[2] for name in source.getnames()}
    files = [path.relative_to(ROOT / "src") for path in (ROOT / "src/ropevit").rglob("*") if path.is_file()]
    expected = {str(path) for path in files if path.suffix != ".pyc"}
    assert expected <= names
    assert {f"src/{name}" for name in expected} <= packed
    assert {Path(name).name for name in names} >= {"LICENSE", "NOTICE", "METADATA"}
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]


def test_the_wheel_runs_where_the_checkout_is_not(built, tmp_path):
    run(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "clean")
    python = tmp_path / "clean" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(UV, "pip", "install", "--quiet", "--python", python, "--no-deps", next(built.glob("*.whl")))
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # read as a path: its own .pth files are not
    code = "import ropevit; print(ropevit.__version__, ropevit.__file__, ropevit.list_models('rope_mixed_deit_small*'))"
    found = run(python, "-c", code, cwd=tmp_path, env={"PYTHONPATH": "", "PATH": ""})
    assert found == f"{__version__} {site / 'ropevit/__init__.py'} ['rope_mixed_deit_small_patch16_LS']"
