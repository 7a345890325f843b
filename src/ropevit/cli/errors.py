"""How errors look."""

from rich.console import Console
from rich.markup import escape


def show_error(error: Exception) -> None:
    """Print an error as one line."""
    line = " ".join(str(error).split())
    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(line)}", highlight=False)
