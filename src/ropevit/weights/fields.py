"""Configs and other facts from JSON: every value is compared with the type that its field has."""

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")

#: Largest whole number that a file may give: no size of a model or an image is as large.
LARGEST = 2**20


def from_json(kind: type[Config], stored: Any) -> Config:
    """Build a dataclass from what JSON holds.

    Args:
        kind: The dataclass.
        stored: Its fields by name; those of dataclasses in it as tables, tuples as lists.

    Raises:
        ValueError: If a name is unknown or lacking, a value is not of its field's type, or the dataclass refuses it.
    """
    return kind(**check_values(kind, stored))


def lists_to_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the lists of fields read from JSON into tuples, which our configs have."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def check_values(kind: type, stored: Any) -> dict[str, Any]:
    """Compare fields with their types, and turn lists into the tuples that they stand for.

    Raises:
        ValueError: If a name is unknown or lacking, or a value is not of its field's type.
    """
    if not isinstance(stored, dict):
        raise ValueError(f"got {short(stored)}; expected a table of fields")
    names = {field.name: field for field in fields(kind)}
    unknown = sorted(stored.keys() - names.keys())
    missing = [
        name
        for name, field in names.items()
        if name not in stored and field.default is field.default_factory is MISSING
    ]
    if unknown or missing:
        raise ValueError(f"it has unknown fields {unknown} and lacks {missing}")
    types_of = get_type_hints(kind)
    return {name: check_value(value, types_of[name], name) for name, value in stored.items()}


def check_value(value: Any, hint: Any, name: str) -> Any:
    """Compare a value of JSON with a type, and give it as that type has it.

    Args:
        value: What came.
        hint: What was expected: bool, int, Integral (of any size), float, str, None, Literal, tuple, a dataclass, or a
            union of them.
        name: What messages call it.

    Raises:
        ValueError: If it is not of that type; numbers are finite, and whole ones at most LARGEST.
    """
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        if isinstance(option, type) and is_dataclass(option) and isinstance(value, dict):
            return from_json(option, value)  # which names what is wrong inside
        if get_origin(option) is tuple and isinstance(value, list | tuple):
            kinds = get_args(option)
            kinds = (kinds[0],) * len(value) if kinds[1:] == (...,) else kinds
            if len(kinds) == len(value):
                return tuple(check_value(item, kind, name) for item, kind in zip(value, kinds, strict=True))
        elif get_origin(option) is Literal:
            if any(value is choice or (type(value) is type(choice) and value == choice) for choice in get_args(option)):
                return value
        elif option in TESTS and TESTS[option](value):
            return value
    raise ValueError(f"got {name}={short(value)}; expected {' or '.join(map(describe, options))}")


def is_number(value: Any) -> bool:
    """Tell a finite number that a float can hold; true and false are none."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def is_whole(value: Any) -> bool:
    """Tell a whole number that a size may be."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


TESTS: dict[Any, Callable[[Any], bool]] = {
    bool: lambda value: isinstance(value, bool),
    int: is_whole,
    Integral: lambda value: isinstance(value, int) and not isinstance(value, bool),
    float: is_number,
    str: lambda value: isinstance(value, str),
    types.NoneType: lambda value: value is None,
}

WORDS = {
    bool: "true or false",
    int: f"a whole number up to {LARGEST}",
    Integral: "a whole number",
    float: "a finite number",
    str: "a text",
    types.NoneType: "null",
}


def describe(hint: Any) -> str:
    """Say what a type expects."""
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        items = dict.fromkeys(describe(kind) for kind in kinds if kind is not ...)
        return f"a list{'' if ... in kinds else f' of {len(kinds)}'}, each {' or '.join(items)}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return WORDS.get(hint, "a table of fields")


def short(value: Any) -> str:
    """Quote a value, the first hundred characters of it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
