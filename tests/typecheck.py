"""The checker of signatures; an int may stand for a float, as everywhere in Python."""

from beartype import BeartypeConf, beartype

_strict = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function):
    """Check a function's signature, from its first call on: to prepare all 4,700 functions takes seconds a process."""
    prepared = None

    def checked(*args, **kwargs):
        nonlocal prepared
        if prepared is None:
            prepared = _strict(function)
        return prepared(*args, **kwargs)

    return checked
