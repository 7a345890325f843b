"""How errors look."""

from rich.text import Text

from ropevit.cli.console import Console


def show_error(error: Exception) -> None:
    """Print an error as one line."""
    line = " ".join(str(error).split())
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error:", "bold red"), " ", line), highlight=False)
