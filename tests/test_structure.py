"""The house rules that a machine can hold: who imports whom, and how big things grow."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ropevit"
FILES = sorted(SOURCE.rglob("*.py"))

#: What all layers may import.
EVERYWHERE = ("cache", "drawing", "extras", "files", "machine", "text")

#: Each layer may import itself and those before it (data and analysis stand beside the line, below tasks).
LINE = ["rope", "kernels", "models", "weights", "tasks", "study", "cli"]
BESIDE = {
    **{name: set() for name in EVERYWHERE},
    "data": set(),
    "bench": {"rope", "kernels", "models", "study"},
    "analysis": {"rope", "kernels", "models", "weights", "data"},
    "integrations": {*LINE[:4], "data"},
}


def layer(path: Path) -> str:
    name = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "cli" if name == "__main__" else name


def allowed(name: str) -> set[str]:
    if name in BESIDE:
        return BESIDE[name] | {name, *EVERYWHERE}
    below = set(LINE[: LINE.index(name) + 1]) | {*EVERYWHERE}
    if name in ("tasks", "study", "cli"):
        below |= {"data", "analysis"}
    return below | set(BESIDE) if name == "cli" else below


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_downwards_only(path):
    if path == SOURCE / "__init__.py":
        return  # the public names, re-exported from below
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("ropevit.")} - {"__version__"}
    assert ours <= allowed(layer(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.body[0].lineno + 1 <= 40, f"{node.name} is too long"
            if any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list):
                continue  # a kernel takes each number by itself
            names = [argument.arg for argument in node.args.posonlyargs + node.args.args]
            count = len(names) - (names[:1] == ["self"])
            assert count <= 6, f"{node.name} takes {count} positional arguments"


@pytest.mark.parametrize("path", [p for p in FILES if layer(p) == "rope"], ids=lambda path: path.name)
def test_the_maths_needs_torch_alone(path):
    outside = {name.split(".")[0] for name in imported(path)} - set(sys.stdlib_module_names)
    assert outside <= {"torch", "jaxtyping", "ropevit"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_the_command_line_prints(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert layer(path) == "cli" or not any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_shapes_of_every_module_are_checked_in_these_tests(path):
    if path.name == "__main__.py":
        return
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    assert type(module.__loader__).__name__ == "_JaxtypingLoader"


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["matplotlib", "timm", "torchvision", "transformers", "tyro", "rich", "PIL", "jinja2"]
    code = f"import sys, ropevit; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


SCRIPTS = sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_import_names_that_there_are(path):
    missing = []
    for name in sorted(name for name in imported(path) if name.startswith("ropevit.")):
        module, _, last = name.rpartition(".")
        if importlib.util.find_spec(module) is None or not hasattr(importlib.import_module(module), last):
            try:
                importlib.import_module(name)
            except ImportError:
                missing.append(name)
    assert missing == []
