"""What of a long list of cases runs by default; the mark `full` leaves the rest to `make test-all`."""

import itertools

import pytest


def by_default(kept, cases):
    """Mark with `full` all cases but those kept."""
    unknown = {*kept} - {*cases}
    assert not unknown, f"no cases {unknown}"
    return [pytest.param(case, marks=() if case in kept else pytest.mark.full) for case in cases]


def in_turn(first, second):
    """Multiply two lists of cases, and mark with `full` all but each case of one with those of the other in turn.

    A case is a value, a tuple of values, or what `by_default` returns; what is marked there stays marked. Every case
    of both lists is in a pair that runs by default.
    """
    first, second = (list(map(_param, cases)) for cases in (first, second))
    plain = [[id(case) for case in cases if not case.marks] for cases in (first, second)]
    period, rows = min(map(len, plain)), []
    for one, other in itertools.product(first, second):
        marks = [*one.marks, *other.marks]
        if not marks and (plain[0].index(id(one)) - plain[1].index(id(other))) % period:
            marks = [pytest.mark.full]
        rows.append(pytest.param(*one.values, *other.values, marks=marks))
    return rows


def _param(case):
    """Return a case as `pytest.param` does."""
    if hasattr(case, "marks"):
        return case
    return pytest.param(*(case if isinstance(case, tuple) else (case,)))


#: Suffixes of what is joined with a rotation.
JOINED = ("_ape", "_rpb", "_decay", "_gaussian")

#: Rotations by the module of RoPE-Golden with other fixed numbers; `tests/models/test_scaling.py` builds models of all.
LIKE_GOLDEN = ("rope_spiral", "rope_star", "rope_simplex")


def embeddings(names):
    """Mark with `full` rotations like golden, and those joined with another embedding, but for RoPE-Mixed's.

    Both parts of the others run by themselves, and so does whatever is registered anew.
    """
    alone = [name for name in names if not name.endswith((*JOINED, *LIKE_GOLDEN))]
    return by_default([*alone, *(name for name in names if "_mixed_" in name)], list(names))
