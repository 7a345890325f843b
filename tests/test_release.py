"""The wheel and the source distribution: built, installed apart from this checkout, and used."""

import os
import shutil
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


@pytest.mark.full  # the contents of the wheel are looked at above
def test_the_wheel_runs_where_the_checkout_is_not(built, tmp_path):
    run(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "clean")
    python = tmp_path / "clean" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(UV, "pip", "install", "--quiet", "--python", python, "--no-deps", next(built.glob("*.whl")))
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # read as a path: its own .pth files are not
    code = "import ropevit; print(ropevit.__version__, ropevit.__file__, ropevit.list_models('rope_mixed_deit_small*'))"
    found = run(python, "-c", code, cwd=tmp_path, env={"PYTHONPATH": "", "PATH": ""})
    assert found == f"{__version__} {site / 'ropevit/__init__.py'} ['rope_mixed_deit_small_patch16_LS']"


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs a C compiler, and /proc/cpuinfo")
def test_a_wheel_with_the_kernel_needs_no_compiler(tmp_path):
    build = [
        UV,
        "build",
        "--quiet",
        "--wheel",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "--out-dir",
        tmp_path,
    ]
    run(*build, ROOT, env=os.environ | {"ROPEVIT_BUILD_KERNEL": "1"})
    (wheel,) = tmp_path.glob("ropevit-*-py3-none-linux_*.whl")
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]  # compiled files are in the wheel alone
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = """if True:
        import torch
        from ropevit.kernels import native, rotate_qkv
        assert native.load_prebuilt(), native.instructions()
        arguments = torch.randn(2, 5, 3, 2, 8), torch.randn(5, 2), torch.randn(2, 2, 4)
        for ours, right in zip(*(rotate_qkv(*arguments, backend=name) for name in ("cpu", "reference"))):
            torch.testing.assert_close(ours, right)
    """
    cache = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "", "ROPEVIT_CACHE": str(tmp_path / "cache")}
    run(sys.executable, "-c", code, cwd=tmp_path, env=cache)
    assert not (tmp_path / "cache").exists()
