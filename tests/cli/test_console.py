"""Names from outside, such as file names, are printed without control characters or markup."""

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

#: Escape sequences that clear the screen and write the clipboard, markup, and an emoji code.
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
def test_control_characters_and_markup_in_names_are_printed_literally(show):
    text = printed(show, force_terminal=True, color_system=None)
    assert SHOWN[:20] in text  # a bar cuts it to the width that it had
    for control in ("\x1b[2J", "\x1b]52", "\x07", "\x9b"):
        assert control not in text


def test_line_breaks_and_styles_are_kept():
    assert printed(lambda console: console.print("one\ntwo")) == "one\ntwo\n"
    assert "\x1b[1m" in printed(lambda console: console.print("one", style="bold"), force_terminal=True)


def test_an_error_is_a_line_without_control_characters(capsys):
    show_error(ValueError(f"no file\n{HOSTILE}"))
    assert capsys.readouterr().err == f"error: no file {SHOWN}\n"


def test_logs_and_warnings_are_printed_without_control_characters(monkeypatch):
    record = logging.LogRecord("ropevit", logging.WARNING, "", 0, "reading %s again", (HOSTILE,), None)
    assert LogFormatter().format(record) == f"reading {SHOWN} again"
    assert f"UserWarning: {SHOWN}\n" in format_warning(HOSTILE, UserWarning, "file.py", 1)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    guard_logs()
    assert warnings.formatwarning is format_warning
    assert isinstance(logging.lastResort.formatter, LogFormatter)


def test_the_command_line_prints_only_through_its_console():
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


#: Names of rich that interpret markup, or let control characters through.
FORBIDDEN = ("Console", "TextColumn", "get_console", "print", "escape", "track")
