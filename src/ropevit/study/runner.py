"""Runs all trainings of a study: in worker processes on a CPU, sequentially on a GPU; interruptible and resumable.

The directory of a study holds `config.json`, `images.json` (a fingerprint of the images),
`runs/<panel>-<embedding>[-<scaling>]-seed<k>/` (see `train.py`) and `results.json`:

    {"config": {...},            StudyConfig.to_dict(); `settings` has the full settings of each panel
     "environment": {...},       versions, device, precision, workers, threads of the last call that trained
     "runs": [...],              the result.json of every finished run, in the order of StudyConfig.runs()
     "complete": true,           false while runs are missing
     "failed": [...],            {fields of `Run`, "message"} of runs that failed
     "data": {...},              name, source, classes and numbers of images; notes such as a subset that was taken
     "skipped_files": [...],     files of the user's that could not be read, with the reason
     "floors": {...},            for each panel the majority-class baseline (see `majority.py`)
     "costs": {...}}             for each panel the time of a step of each embedding (see `cost.py`); {} until complete
"""

import contextlib
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ropevit.data.emoji import STUDY_GROUPS, load_emoji
from ropevit.data.fashion import load_fashion
from ropevit.data.folder import check_folder, load_folder
from ropevit.data.labeled import LabeledImages
from ropevit.data.named import load_named
from ropevit.data.sources import NAMED_SOURCES
from ropevit.device import resolve_device
from ropevit.files import read_json, write_json
from ropevit.locks import is_empty, lock_folder
from ropevit.machine import available_cores, environment
from ropevit.study.config import StudyConfig
from ropevit.study.cost import measure_costs
from ropevit.study.events import Event, LoadingImages, Report, RunDone, RunFailed
from ropevit.study.fingerprint import SPLITS, describe_differences, digest, fingerprint
from ropevit.study.majority import compute_majority_baselines
from ropevit.study.precision import resolve_precision
from ropevit.study.results import read_results
from ropevit.study.settings import EMBEDDED
from ropevit.study.stored_runs import refuse_other_study, stored_result
from ropevit.study.tuning import hold_out
from ropevit.study.workers import SHARED_IMAGES, Images, StudyPlan, run_here, run_in_workers
from ropevit.tasks.evaluation.tuned_scaling import AUTO


def run_study(config: StudyConfig, report: Report) -> dict[str, Any]:
    """Run the missing trainings of a study.

    A run that fails is reported and skipped; the others continue.

    Args:
        config: Settings of the study.
        report: Called with each event, in this process.

    Returns:
        The content of `results.json`, which is also written when the study is interrupted.

    Raises:
        ValueError: If the directory contains another study, or this one without `resume`; if images are unusable.
        KeyboardInterrupt: If the user interrupts; finished steps are kept and `resume` continues from there.
    """
    if config.data not in NAMED_SOURCES:
        check_folder(Path(config.data).expanduser())
    if config.out.exists() and not config.out.is_dir():
        raise ValueError(f"got the directory {config.out}, which is a file; give another with --out")
    with lock_folder(config.out):
        _check_directory(config)
        return _run_locked(config, report)


def _run_locked(config: StudyConfig, report: Report) -> dict[str, Any]:
    """Implement `run_study` while the directory is locked."""
    images = load_images(config, report)
    if AUTO in (config.scaling or ()):
        hold_out(images[0])  # raises if there are too few
    seen, earlier = fingerprint(*images), _earlier_results(config)
    known = check_fingerprint(config, seen, earlier.get("data", {}))
    plan = _plan_study(config, digest(seen))
    if plan.runs and not known:
        raise ValueError(
            f"{config.out} has no fingerprint of its images, so they cannot be compared with these; "
            "it can be read as it is, but to add runs give another --out"
        )
    write_json(config.out / "config.json", config.to_dict())
    if known:
        write_json(config.out / "images.json", seen)
    facts = {
        "environment": environment(plan.device, plan.dtype, plan.workers, plan.threads),
        "data": _describe_data(*images),
        "skipped_files": sorted({*images[0].skipped, *images[1].skipped}),
        "floors": compute_majority_baselines(config, images),
        "costs": {},
    }
    if not plan.runs:  # without training, keep the entries of the previous call
        facts |= {key: earlier[key] for key in ("environment", "costs") if key in earlier}
    failed: list[dict[str, Any]] = []
    try:
        completed = _execute(plan, images, report, failed)
    finally:
        results = _write_results(plan, facts, failed)
    if not completed:
        raise KeyboardInterrupt
    if results["complete"] and not results["costs"]:
        facts["costs"] = measure_costs(plan, images, report)
        results = _write_results(plan, facts, failed)
    return results


def _earlier_results(config: StudyConfig) -> dict[str, Any]:
    """Read the results of an earlier call; {} if there are none.

    Raises:
        ValueError: If they are damaged.
    """
    return read_results(config.out) if (config.out / "results.json").exists() else {}


def check_fingerprint(config: StudyConfig, seen: dict[str, Any], data: dict[str, Any]) -> bool:
    """Raise ValueError if the images differ from those that a study was trained on.

    Args:
        config: The study.
        seen: Fingerprint of the current images.
        data: Entry `data` of earlier results.

    Returns:
        Whether the images are known to be the same; False for an older study of a folder without fingerprint.

    Raises:
        ValueError: If they differ.
    """
    path = config.out / "images.json"
    before = {name: {"images": data[f"{name}_images"]} for name in SPLITS if f"{name}_images" in data}
    before |= {"classes": data["classes"]} if "classes" in data else {}
    try:
        before = _check_complete(read_json(path), seen) if path.exists() else before
        other = describe_differences(before, seen)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise ValueError(f"cannot read {path}: it is damaged; give another --out") from None
    if other:
        raise ValueError(
            f"{config.out} was trained on other images ({'; '.join(other)}), and seeds of both would be mixed in one "
            "mean; bring its images back, or give another --out"
        )
    return path.exists() or config.data in EMBEDDED or not any((config.out / "runs").glob("*/*"))


def _check_complete(stored: Any, seen: dict[str, Any]) -> dict[str, Any]:
    """Return a stored fingerprint if it has all keys of the current one.

    Raises:
        ValueError: If something is missing.
    """
    if [stored.keys(), *(stored[name].keys() for name in SPLITS)] != [
        seen.keys(),
        *(seen[name].keys() for name in SPLITS),
    ]:
        raise ValueError("not a fingerprint")
    return stored


def _plan_study(config: StudyConfig, images: str) -> StudyPlan:
    """Plan the missing runs, with the number of workers and threads."""
    device = resolve_device(config.device)
    missing = tuple(run for run in config.runs() if stored_result(config, run, images) is None)
    workers, threads = _share_cores(config, device, len(missing))
    return StudyPlan(
        config=config,
        runs=missing,
        device=device,
        dtype=resolve_precision(config.precision, device),
        workers=workers,
        threads=threads,
        images=images,
    )


def _execute(plan: StudyPlan, images: Images, report: Report, failed: list[dict[str, Any]]) -> bool:
    """Execute a plan, collecting failed runs; return whether it was completed, not interrupted."""

    def note(event: Event) -> None:
        if isinstance(event, RunFailed):
            failed.append({**event.run.to_dict(), "message": event.message})
        report(event)

    for run in plan.config.runs():
        if run not in plan.runs:
            report(RunDone(run=run, result=stored_result(plan.config, run, plan.images) or {}, reused=True))
    with _stop_on_interrupt() as stopped:
        do_all = run_here if plan.workers == 1 else run_in_workers
        do_all(plan, images, note, stopped)
    return not stopped.is_set()


def _check_directory(config: StudyConfig) -> None:
    """Check that no other files are overwritten, and no other study is mixed with this one.

    Raises:
        ValueError: If the directory holds other files, or a study that this config does not continue.
    """
    path = config.out / "config.json"
    if not is_empty(config.out):
        if not path.exists():
            raise ValueError(f"{config.out} holds other files and no study; give an empty or new directory with --out")
        if not config.resume:
            raise ValueError(
                f"{config.out} holds a study already; add --resume to go on with it, or give another --out"
            )
        refuse_other_study(config, path)
        _remove_leftovers(config.out)


def _remove_leftovers(folder: Path) -> None:
    """Delete partial files of a killed process, and the images that it shared with its workers."""
    for part in [*folder.glob(".*.part"), *folder.glob("runs/*/.*.part")]:
        part.unlink(missing_ok=True)
    for images in folder.glob(f"{SHARED_IMAGES}*"):
        shutil.rmtree(images, ignore_errors=True)


def load_images(config: StudyConfig, report: Report) -> Images:
    """Load the training and test images that a config names."""
    if config.data == "fashion":
        return load_fashion("train"), load_fashion("test")
    if config.data == "emoji":
        return load_emoji("train", groups=STUDY_GROUPS), load_emoji("test", groups=STUDY_GROUPS)

    def update(done: int, total: int) -> None:
        report(LoadingImages(done=done, total=total))

    if config.data in NAMED_SOURCES:
        return load_named(config.data, config.image_size(), update)
    return load_folder(config.data, config.image_size(), config.max_images, progress=update)


def _describe_data(train: LabeledImages, test: LabeledImages) -> dict[str, Any]:
    """Return entry `data` of `results.json`: name, source, classes and numbers of images."""
    return {
        "name": train.name.removesuffix("/train"),
        "source": train.source,
        "classes": list(train.classes),
        "train_images": len(train),
        "test_images": len(test),
        "notes": list(train.notes),
    }


def _share_cores(config: StudyConfig, device: torch.device, runs: int) -> tuple[int, int]:
    """Return the number of worker processes and the threads of each."""
    if device.type != "cpu":
        return 1, torch.get_num_threads()
    cores = available_cores()
    workers = max(1, min(config.workers or cores, runs))
    return workers, max(1, cores // workers)


def _write_results(plan: StudyPlan, facts: dict[str, Any], failed: list[dict[str, Any]]) -> dict[str, Any]:
    """Collect the results of all runs in `results.json`."""
    config = plan.config
    found = [result for run in config.runs() if (result := stored_result(config, run, plan.images)) is not None]
    results = {"config": config.to_dict(), "runs": found, "complete": len(found) == len(config.runs())}
    results |= {"failed": failed, **facts}
    write_json(config.out / "results.json", results)
    return results


@contextlib.contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that a step is always completed; a second one interrupts immediately."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return

    def stop(signum: int, frame: Any) -> None:
        if stopped.is_set():
            signal.default_int_handler(signum, frame)
        stopped.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)
