"""Structure of the package: layers of imports, sizes of files and functions, a test file for each source file."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ropevit"
FILES = sorted(SOURCE.rglob("*.py"))

#: What all layers may import.
EVERYWHERE = (
    "arithmetic",
    "cache",
    "device",
    "drawing",
    "extras",
    "files",
    "lazy",
    "locks",
    "machine",
    "painting",
    "plugins",
    "text",
)

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


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def offenders(find) -> list[str]:
    """Name every file of the package, and in it what breaks a rule; `find` yields it for a path and its syntax tree."""
    return [f"{path.relative_to(SOURCE)}: {found}" for path in FILES for found in find(path, parse(path))]


def test_imports_go_downwards_only():
    def upwards(path, tree):
        if path == SOURCE / "__init__.py":
            return []  # the public names, re-exported from below
        ours = {name.split(".")[1] for name in imported(tree) if name.startswith("ropevit.")} - {"__version__"}
        return ours - allowed(layer(path))

    assert offenders(upwards) == []


def test_imports_are_absolute():
    def relative(_, tree):
        return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]

    assert offenders(relative) == []


def test_files_and_functions_stay_small():
    def too_large(path, tree):
        if (lines := path.read_text().count("\n")) > 400:
            yield f"{lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                if (lines := node.end_lineno - node.body[0].lineno + 1) > 40:
                    yield f"{node.name} has {lines} lines"
                if (count := positional(node)) > 6:
                    yield f"{node.name} takes {count} positional arguments"

    assert offenders(too_large) == []


def positional(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the positional arguments of a function; a Triton kernel takes each number by itself and counts as none."""
    if any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list):
        return 0
    names = [argument.arg for argument in node.args.posonlyargs + node.args.args]
    return len(names) - (names[:1] == ["self"])


def test_the_maths_needs_torch_alone():
    def foreign(path, tree):
        outside = {name.split(".")[0] for name in imported(tree)} - set(sys.stdlib_module_names)
        return outside - {"torch", "jaxtyping", "ropevit"} if layer(path) == "rope" else []

    assert offenders(foreign) == []


def test_only_the_command_line_prints():
    def prints(path, tree):
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
        return [node.lineno for node in calls if node.func.id == "print" and layer(path) != "cli"]

    assert offenders(prints) == []


def test_the_shapes_of_every_module_are_checked_in_these_tests():
    names = [".".join(path.relative_to(SOURCE.parent).with_suffix("").parts) for path in FILES]
    modules = [
        importlib.import_module(name.removesuffix(".__init__")) for name in names if not name.endswith("__main__")
    ]
    assert [m.__name__ for m in modules if type(m.__loader__).__name__ != "_JaxtypingLoader"] == []


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["torch", "matplotlib", "timm", "torchvision", "transformers", "tyro", "rich", "PIL", "jinja2"]
    code = f"import sys, ropevit; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_scripts_import_names_that_exist():
    missing = []
    for path in sorted(path for folder in ("benchmarks", "examples") for path in (ROOT / folder).glob("*.py")):
        for name in sorted(imported(ast.parse(path.read_text()))):
            if name.startswith("ropevit.") and not importable(name):
                missing.append(f"{path.relative_to(ROOT)}: {name}")
    assert missing == []


def importable(name: str) -> bool:
    """Return whether a dotted name is a module, or an attribute of one."""
    module, _, last = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), last) or bool(importlib.import_module(name))
    except ImportError:
        return False
