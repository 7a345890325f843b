"""What of a long list of cases runs by default; the mark `full` leaves the rest to `make test-all`."""

import pytest


def by_default(kept, cases):
    """Mark with `full` all cases but those kept."""
    unknown = {*kept} - {*cases}
    assert not unknown, f"no cases {unknown}"
    return [case if case in kept else pytest.param(case, marks=pytest.mark.full) for case in cases]


#: Suffixes of what is joined with a rotation.
JOINED = ("_ape", "_rpb", "_decay", "_gaussian")


def embeddings(names):
    """Mark with `full` every rotation that is joined with another embedding, but for RoPE-Mixed's.

    Both parts of the others run by themselves, and so does whatever is registered anew.
    """
    return by_default([name for name in names if "_mixed_" in name or not name.endswith(JOINED)], list(names))
