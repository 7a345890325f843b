"""The checker of signatures; an int may stand for a float, as everywhere in Python.

jaxtyping's decorator prepares each of 4,700 functions where it is defined and binds the arguments of each call, which
takes seconds a process. The one here prepares a function at its first call, and binds arguments for shapes only.
"""

import functools
import inspect
from dataclasses import is_dataclass
from typing import ForwardRef, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))

_jaxtyped = jaxtyping.jaxtyped


def jaxtyped(function=None, *, typechecker=None):
    """Check a function's signature, or that of a dataclass's `__init__`; stands for `jaxtyping.jaxtyped`."""
    if function is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if inspect.isfunction(function):
        return _checked_when_called(function)
    made = getattr(function, "__init__", None)
    # one that wraps another is checked already, or takes other arguments than that, as in transformers' configs
    if is_dataclass(function) and inspect.isfunction(made) and not hasattr(made, "__wrapped__"):
        function.__init__ = _checked_when_called(made)
    return function


def _checked_when_called(function):
    """Return a function that is prepared at its first call, and only then if checks are on."""
    prepared = None

    @functools.wraps(function)
    def checked(*args, **kwargs):
        nonlocal prepared
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if prepared is None:
            prepared = _jaxtyped(function, typechecker=check) if _needs_scope(function) else check(function)
        return prepared(*args, **kwargs)

    return checked


def _needs_scope(function):
    """Return whether names of axes are to be compared in a call; a generator keeps its own frame, too."""
    return inspect.isgeneratorfunction(function) or any(map(_has_shapes, function.__annotations__.values()))


def _has_shapes(annotation):
    """Return whether there is a shape in an annotation, or may be."""
    if isinstance(annotation, str | ForwardRef):
        return True
    if inspect.isclass(annotation) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    parts = annotation if isinstance(annotation, list) else get_args(annotation)
    return any(map(_has_shapes, parts))
