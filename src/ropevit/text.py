"""Text in messages: names in a list, suggestions for a wrong one, and text from outside made safe to show."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

#: C0 and C1 control characters, and those that reverse or hide what follows.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: Fewest characters for which the names that contain them are suggested.
_MIN_PART = 3

#: What makes a spreadsheet compute a cell.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def join_names(names: Iterable[str], most: int = 5) -> str:
    """List the first names in a sentence and count the others; very long ones are cut."""
    names = list(names)
    shown = [name if len(name) <= 100 else f"{name[:100]}..." for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")


def suggest(name: str, known: Iterable[str], otherwise: str, most: int = 3) -> str:
    """Return the hint of a message on an unknown name: the known names that contain it, or are spelled alike.

    Args:
        name: The unknown name.
        known: Names to choose from.
        otherwise: The hint if none is near, such as where to list them.
        most: Maximum number of names.
    """
    known = list(known)
    near = [each for each in known if name in each] if len(name) >= _MIN_PART else []
    near = near[:most] or get_close_matches(name, known, most)
    return f"did you mean {' or '.join(filter(None, (', '.join(near[:-1]), near[-1])))}?" if near else otherwise


def format_speed(per_second: float) -> str:
    """Write a number of images per second: whole from 10 on, else with two digits, as a slow one is not 0."""
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"


def printable(text: object) -> str:
    r"""Escape control characters, so that a name cannot drive a terminal: ESC becomes the four letters \x1b."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def printable_lines(text: str) -> str:
    """Escape control characters as `printable`, but keep the ends of lines."""
    return "\n".join(map(printable, text.split("\n")))


def csv_cell(value: object) -> object:
    """Keep a spreadsheet from computing a text: one that would be a formula gets an apostrophe in front.

    Numbers are returned as they are, also negative ones.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
