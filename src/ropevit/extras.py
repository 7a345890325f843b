"""Optional packages: imported where they are needed, with an error that says how to get them."""

from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError, ValueError):
    """An optional package is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: Its name, such as "matplotlib.figure".
        extra: The extra of ropevit that installs it.

    Raises:
        MissingExtraError: If it is not installed, naming the extra.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).split(".")[0]
        raise MissingExtraError(f"{package} is not installed; {how_to_install(extra)}") from error


def how_to_install(extra: str) -> str:
    """Return how to install an extra: ropevit is in no registry of packages, so from its clone or wheel."""
    return f'in a clone of ropevit, install it with: pip install ".[{extra}]"'
