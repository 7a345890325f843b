"""What the command line prints of names from outside."""

import ast
import io
import logging
import sys
import warnings
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table

from ropevit.cli.console import Console, LogFormatter, TextColumn, format_warning, guard_logs
from ropevit.cli.errors import show_error

#: Clears the screen, writes the clipboard; would be markup, an emoji.
HOSTILE = "a\x1b[2J\x1b]52;c;cHduZWQ=\x1b-\x9b31m[/red][link=x]:cat:"
SHOWN = r"a\x1b[2J\x1b]52;c;cHduZWQ=\x1b-\x9b31m[/red][link=x]:cat:"


def printed(show, **options) -> str:
    out = io.StringIO()
    show(Console(file=out, width=200, **options))
    return out.getvalue()


def table(console):
    made = Table(title=HOSTILE)
    made.add_column(HOSTILE)
    made.add_row(HOSTILE)
    console.print(made)


def bar(console):
    with Progress(TextColumn("{task.description}"), console=console) as progress:
        progress.add_task(HOSTILE, total=1)


def status(console):
    with console.status(HOSTILE):
        pass


@pytest.mark.parametrize("show", [lambda console: console.print(HOSTILE), table, bar, status])
def test_names_are_shown_and_never_obeyed(show):
    text = printed(show, force_terminal=True, color_system=None)
    assert SHOWN[:20] in text  # a bar cuts it to the width that it had
    for obeyed in ("\x1b[2J", "\x1b]52", "\x07", "\x9b"):
        assert obeyed not in text


def test_lines_and_own_styles_stay():
    assert printed(lambda console: console.print("one\ntwo")) == "one\ntwo\n"
    assert "\x1b[1m" in printed(lambda console: console.print("one", style="bold"), force_terminal=True)


def test_an_error_is_a_line_without_control_characters(capsys):
    show_error(ValueError(f"no file\n{HOSTILE}"))
    assert capsys.readouterr().err == f"error: no file {SHOWN}\n"


def test_logs_and_warnings_are_shown_alike(monkeypatch):
    record = logging.LogRecord("ropevit", logging.WARNING, "", 0, "reading %s anew", (HOSTILE,), None)
    assert LogFormatter().format(record) == f"reading {SHOWN} anew"
    assert f"UserWarning: {SHOWN}\n" in format_warning(HOSTILE, UserWarning, "file.py", 1)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    guard_logs()
    assert warnings.formatwarning is format_warning
    assert isinstance(logging.lastResort.formatter, LogFormatter)


def test_nothing_else_prints():
    folder = Path(sys.modules["ropevit.cli"].__file__).parent
    found = []
    for path in sorted(folder.glob("*.py")):
        names = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom | ast.Call)]
        for node in names if path.name != "console.py" else []:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rich"):
                found += [(path.name, name.name) for name in node.names if name.name in FORBIDDEN]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "print",
                "sys.stdout.write",
                "sys.stderr.write",
            ):
                found.append((path.name, "print"))
    assert found == []


#: Of rich: what obeys markup, or lets control characters through.
FORBIDDEN = ("Console", "TextColumn", "get_console", "print", "escape", "track")
