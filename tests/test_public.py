"""The public names of all packages and their signatures, compared with golden/public.txt.

After an intended change, `python tests/test_public.py` writes that file again.
"""

import inspect
import pkgutil
import re
from collections.abc import Iterator
from difflib import unified_diff
from importlib import import_module
from pathlib import Path
from types import ModuleType

import ropevit

SNAPSHOT = Path(__file__).parent / "golden" / "public.txt"
#: Public modules that are not packages.
MODULES = ("ropevit.models.dense", "ropevit.rope.scaling")


def packages() -> list[str]:
    """Return the names of all packages and of the other public modules."""
    found = pkgutil.walk_packages(ropevit.__path__, "ropevit.")
    names = [module.name for module in found if module.ispkg and hasattr(import_module(module.name), "__all__")]
    return sorted({"ropevit", *names, *MODULES})


def signature(thing: object) -> str:
    """Return names, kinds and defaults of parameters; types are left to the type checker."""
    try:
        found = inspect.signature(thing)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return "(...)"
    plain = [each.replace(annotation=inspect.Parameter.empty) for each in found.parameters.values()]
    text = str(found.replace(parameters=plain, return_annotation=inspect.Signature.empty))
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def members(owner: type) -> Iterator[str]:
    """Yield the public methods and properties of a class that this package defines, one a line."""
    own = [base for base in owner.__mro__ if base.__module__.startswith("ropevit")]
    for name in sorted({name for base in own for name in vars(base) if not name.startswith("_")}):
        value = inspect.getattr_static(owner, name)
        if isinstance(value, property):
            yield f"    .{name}"
        elif callable(getattr(owner, name)):
            yield f"    .{name}{signature(getattr(owner, name))}"


def lines_of(module: ModuleType) -> Iterator[str]:
    """Yield the public names of a module with their signatures."""
    names = getattr(module, "__all__", None)
    if names is None:
        defined = {name: getattr(value, "__module__", None) for name, value in vars(module).items()}
        names = [name for name, place in defined.items() if place == module.__name__ and not name.startswith("_")]
    yield module.__name__
    for name in sorted(names):
        value = getattr(module, name)
        if isinstance(value, type):
            yield f"  class {name}{signature(value)}"
            yield from members(value)
        elif callable(value) and hasattr(value, "__name__"):
            yield f"  def {name}{signature(value)}"
        else:
            yield f"  {name}"


def public() -> str:
    """Return the public interface as text."""
    return "\n".join(line for name in packages() for line in lines_of(import_module(name))) + "\n"


def test_public_names_and_signatures_are_those_of_the_snapshot():
    difference = list(
        unified_diff(SNAPSHOT.read_text().splitlines(), public().splitlines(), "before", "now", "", "", 0)
    )
    assert not difference, (
        "the public interface changed; if that is intended, run `python tests/test_public.py`, and list the change in "
        "CHANGELOG.md:\n" + "\n".join(difference)
    )


def test_every_package_says_what_is_public():
    found = [module.name for module in pkgutil.walk_packages(ropevit.__path__, "ropevit.") if module.ispkg]
    assert not [name for name in found if not hasattr(import_module(name), "__all__")]


if __name__ == "__main__":
    SNAPSHOT.write_text(public())
