"""Make tutorial.ipynb of tutorial.md: text cells, and cells of commands and Python; prints the path that it wrote."""

import json
import re
from pathlib import Path

PAGE = Path(__file__).with_name("tutorial.md")

#: A block of commands or of Python in the page.
_BLOCK = re.compile(r"^```(python)?\n(.*?)^```\n", re.M | re.S)


def notebook(page: str) -> str:
    """Return a page as a notebook in nbformat 4: a block of commands becomes lines for the shell."""
    cells, at = [], 0
    for block in _BLOCK.finditer(page):
        language, code = block.groups()
        lines = code if language else "".join(f"!{line}\n" for line in code.splitlines())
        cells += [_cell("markdown", page[at : block.start()]), _cell("code", lines)]
        at = block.end()
    cells.append(_cell("markdown", page[at:]))
    kept = [cell | {"id": f"cell-{number}"} for number, cell in enumerate(cells) if cell["source"]]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": kept, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}, indent=1) + "\n"


def _cell(kind: str, text: str) -> dict:
    """Return a cell of text or code, without output."""
    code = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {"cell_type": kind, "metadata": {}, "source": text.strip().splitlines(keepends=True), **code}


if __name__ == "__main__":
    path = PAGE.with_suffix(".ipynb")
    path.write_text(notebook(PAGE.read_text()))
    print(path)
