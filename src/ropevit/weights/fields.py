"""Reads dataclasses from JSON, checking every value against the type of its field."""

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Config = TypeVar("Config")

#: Largest integer accepted from a file, above all sizes of models and images.
LARGEST = 2**20


def from_json(cls: type[Config], stored: object) -> Config:
    """Build a dataclass from JSON.

    Args:
        cls: The dataclass.
        stored: Its fields by name; nested dataclasses as objects, tuples as lists.

    Raises:
        ValueError: If a field is unknown or missing, a value has a wrong type, or the dataclass rejects it.
    """
    return cls(**check_values(cls, stored))


def lists_to_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert lists in fields read from JSON to tuples, as our configs have them."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def check_values(cls: type, stored: object) -> dict[str, Any]:
    """Check fields against their types, and convert lists to tuples.

    Raises:
        ValueError: If a field is unknown or missing, or a value has a wrong type.
    """
    if not isinstance(stored, dict):
        raise ValueError(f"got {short(stored)}; expected a dict of fields")
    names = {field.name: field for field in fields(cls)}
    unknown = sorted(stored.keys() - names.keys())
    missing = [
        name
        for name, field in names.items()
        if name not in stored and field.default is field.default_factory is MISSING
    ]
    if unknown or missing:
        raise ValueError(f"got unknown fields {unknown}, and {missing} are missing")
    types_of = get_type_hints(cls)
    return {name: check_value(value, types_of[name], name) for name, value in stored.items()}


def check_value(value: object, hint: Any, name: str) -> Any:
    """Check a JSON value against a type, and return it converted to that type.

    Args:
        value: The JSON value.
        hint: The expected type: bool, int, Integral (of any size), float, str, None, Literal, tuple, a dataclass, or a
            union of them.
        name: Name of the field in messages.

    Raises:
        ValueError: If it is not of that type; numbers are finite, and whole ones at most LARGEST.
    """
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    for option in options:
        if isinstance(option, type) and is_dataclass(option) and isinstance(value, dict):
            return from_json(option, value)  # its errors name the nested field
        if get_origin(option) is tuple and isinstance(value, list | tuple):
            item_types = get_args(option)
            item_types = (item_types[0],) * len(value) if item_types[1:] == (...,) else item_types
            if len(item_types) == len(value):
                return tuple(
                    check_value(item, item_type, name) for item, item_type in zip(value, item_types, strict=True)
                )
        elif get_origin(option) is Literal:
            if any(value is choice or (type(value) is type(choice) and value == choice) for choice in get_args(option)):
                return value
        elif option in TESTS and TESTS[option](value):
            return value
    raise ValueError(f"got {name}={short(value)}; expected {' or '.join(map(describe, options))}")


def _is_number(value: object) -> bool:
    """Return whether a value is a finite number (not a boolean) within the range of float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _is_whole(value: object) -> bool:
    """Return whether a value is an integer (not a boolean) of at most LARGEST."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST


TESTS: dict[Any, Callable[[Any], bool]] = {
    bool: lambda value: isinstance(value, bool),
    int: _is_whole,
    Integral: lambda value: isinstance(value, int) and not isinstance(value, bool),
    float: _is_number,
    str: lambda value: isinstance(value, str),
    types.NoneType: lambda value: value is None,
}

WORDS = {
    bool: "true or false",
    int: f"a whole number up to {LARGEST}",
    Integral: "a whole number",
    float: "a finite number",
    str: "a string",
    types.NoneType: "null",
}


def describe(hint: Any) -> str:
    """Describe the values of a type."""
    if get_origin(hint) is tuple:
        item_types = get_args(hint)
        items = dict.fromkeys(describe(item_type) for item_type in item_types if item_type is not ...)
        return f"a list{'' if ... in item_types else f' of {len(item_types)}'}, each {' or '.join(items)}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return WORDS.get(hint, "a dict of fields")


def short(value: object) -> str:
    """Return the first hundred characters of a value's repr."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
