"""Runs a benchmark from its config to its output files; finished groups are kept when it is interrupted."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from ropevit.bench.attention_groups import attention_group
from ropevit.bench.candidate import DIRECTIONS, Candidate, Group, PlannedCandidate
from ropevit.bench.check import WrongResultError
from ropevit.bench.config import BenchConfig, check_level
from ropevit.bench.networks import model_group
from ropevit.bench.report import describe, draw, write_markdown
from ropevit.bench.results import BenchRow, write_rows
from ropevit.bench.scale import ScaleSettings, scale_groups
from ropevit.bench.scale_report import model_of
from ropevit.bench.shapes import SCALE_SIZES, SHAPES, SIZES
from ropevit.bench.timing import peak_bytes, saved_bytes, time_rounds, timing_stats
from ropevit.device import resolve_device
from ropevit.extras import MissingExtraError, require
from ropevit.locks import lock_folder

_WRONG = "dropped, wrong:"
#: Progress callback: description of the current step, steps done, steps in total.
Report = Callable[[str, int, int], None]


def run_bench(level: str, config: BenchConfig, report: Report = lambda *_: None) -> Iterator[list[BenchRow]]:
    """Check and time all candidates of a benchmark, group by group.

    `bench.csv` and `bench.md` are written after each group, figures (`bench.png`, of the level scale `scale.png`) at
    the end, also after an interruption.

    Args:
        level: op, layer, attention, model, scale or all (all but scale).
        config: Settings of the benchmark.
        report: Progress callback.

    Yields:
        The rows of each finished group.

    Raises:
        ValueError: Before any work, if the level or device is unknown, matplotlib is missing, or results exist.
    """
    levels, device = check_level(level), resolve_device(config.device, ("cpu", "cuda"))
    require("matplotlib", "figures")  # fail now, not after the work
    existing = config.out / "bench.csv"
    if existing.exists() and not config.overwrite:
        raise ValueError(f"{existing} exists; choose another --out, or add --overwrite to replace it")
    planned = [group for name in levels for group in _make_groups(name, config, device)]
    return locked(config.out, _execute(planned, config, device, report))


def locked(out: Path, work: Iterator[list[BenchRow]]) -> Iterator[list[BenchRow]]:
    """Yield from `work` while holding a lock on the output folder."""
    with lock_folder(out):
        yield from work


def _execute(
    planned: list[Group], config: BenchConfig, device: torch.device, report: Report
) -> Iterator[list[BenchRow]]:
    """Run groups one after the other, writing the tables after each."""
    rows: list[BenchRow] = []
    rounds = config.chosen_rounds()
    total, done = 2 * rounds * len(planned), 0
    with threads(config.threads):
        facts = describe(device, config.dtype, rounds)
        try:
            for group in planned:

                def advance(what: str, steps: int, group: Group = group) -> None:
                    nonlocal done
                    done += steps
                    report(f"{group.level} {group.shape}: {what}", done, total)

                found = run_group(_without_wrong(group, rows), device, rounds, advance)
                rows += found
                _write_tables(config.out, rows, facts)
                yield found
        finally:
            draw(rows, facts, config.out)


def _without_wrong(group: Group, rows: list[BenchRow]) -> Group:
    """Leave out the candidates of the level scale that were wrong at another size of the same model."""
    if group.level != "scale":
        return group
    wrong = {row.label for row in rows if _is_wrong(row) and model_of(row.shape) == model_of(group.shape)}
    return replace(group, entries=[entry for entry in group.entries if entry.label not in wrong])


def _is_wrong(row: BenchRow) -> bool:
    """Return whether a candidate was dropped because its results are wrong."""
    return row.note.startswith(_WRONG)


def _write_tables(out: Path, rows: list[BenchRow], facts: dict[str, str]) -> None:
    """Write the results so far."""
    out.mkdir(parents=True, exist_ok=True)
    write_rows(out / "bench.csv", rows)
    write_markdown(out / "bench.md", rows, facts)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Set PyTorch's number of threads within the context; None keeps it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _make_groups(level: str, config: BenchConfig, device: torch.device) -> list[Group]:
    """Return the groups of candidates of a level."""
    dtype, images = getattr(torch, config.dtype), config.chosen_images()

    def choose(library: str) -> list[bool]:
        wanted = library == "none" or library in config.peers
        return [False, *([True] if config.compile else [])] if wanted else []

    if level == "model":
        size = SIZES["quick"] if config.quick else SIZES.get(device.type, SIZES["cpu"])
        return [model_group(size, images or size.images, device, dtype, choose)]
    if level == "scale":
        sizes = SCALE_SIZES["quick"] if config.quick else SCALE_SIZES.get(device.type, SCALE_SIZES["cpu"])
        return scale_groups(ScaleSettings(device=device, dtype=dtype, images=images, choose=choose), sizes)
    shapes = [SHAPES[name] for name in config.chosen_shapes(device.type)]
    return [attention_group(level, shape, device, dtype, shape.rows(device.type, images), choose) for shape in shapes]


def run_group(group: Group, device: torch.device, rounds: int, advance: Callable[[str, int], None]) -> list[BenchRow]:
    """Build, check and time the candidates of a group; rows of failed ones carry the reason as a note."""
    candidates: dict[str, Candidate] = {}
    blank: dict[str, BenchRow] = {}
    for entry in group.entries:
        advance(f"checking {entry.label}", 0)
        blank[entry.label], candidate = _try_entry(group, entry)
        if candidate is not None:
            candidates[entry.label] = candidate
    rows = []
    for index, direction in enumerate(DIRECTIONS[group.level]):
        calls = {label: (item.both if index else item.forward) for label, item in candidates.items()}
        times = time_rounds(calls, rounds, device, lambda direction=direction: advance(direction, 1))
        for label, row in blank.items():
            row = replace(row, direction=direction)
            if label in times:
                row = _fill_row(row, times, candidates[label], index, device)
            rows.append(row)
    return rows


def _try_entry(group: Group, entry: PlannedCandidate) -> tuple[BenchRow, Candidate | None]:
    """Build and check a candidate; on failure return None and a row with the reason."""
    twin = f"{group.base}, compiled"
    base = twin if entry.compiled and any(other.label == twin for other in group.entries) else group.base
    row = BenchRow(
        level=group.level, shape=group.shape, about=group.about, images=group.images, pixels=group.pixels, direction="",
        label=entry.label, library=entry.library, embedding=entry.embedding, compiled=entry.compiled, base=base,
    )  # fmt: skip
    try:
        candidate = entry.make()
        return replace(row, error=candidate.check() if candidate.check else None), candidate
    except MissingExtraError as error:
        return replace(row, note=f"not installed: {error}"), None
    except WrongResultError as error:
        return replace(row, note=f"{_WRONG} {error}"), None
    except Exception as error:  # third-party code and compilers may raise anything; the row keeps the message
        lines = str(error).strip().splitlines() or [""]
        return replace(row, note=f"cannot run: {type(error).__name__}: {lines[0]}"), None


def _fill_row(
    row: BenchRow, times: dict[str, list[float]], candidate: Candidate, index: int, device: torch.device
) -> BenchRow:
    """Fill in the numbers of a row; `index` is 0 for the first direction of a level and 1 for the second."""
    seconds = times[row.label]
    middle = timing_stats(seconds).median
    row = replace(row, milliseconds=1e3 * middle, rounds=len(seconds))
    if row.base in times:
        ratio = timing_stats([own / other for own, other in zip(seconds, times[row.base], strict=True)])
        row = replace(row, ratio=ratio.median, ratio_low=ratio.low, ratio_high=ratio.high)
    if candidate.min_bytes and candidate.min_bytes[index]:
        row = replace(row, gigabytes_per_second=candidate.min_bytes[index] / middle / 1e9)
    if device.type == "cuda":
        peak = peak_bytes(candidate.both if index else candidate.forward)
        return replace(row, megabytes=peak / 1e6, memory="peak")
    if index:
        return replace(row, megabytes=saved_bytes(candidate.tracked) / 1e6, memory="kept")
    return row
