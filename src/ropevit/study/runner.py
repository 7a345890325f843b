"""All trainings of a study: in worker processes on a CPU, one after the other on a GPU; interruptible and resumable.

The directory of a study holds `config.json`, `images.json` (a fingerprint of the images),
`runs/<panel>-<embedding>[-<rules>]-seed<k>/` (see `train.py`) and `results.json`:

    {"config": {...},            StudyConfig.to_dict(); `settings` has the full settings of each panel
     "environment": {...},       versions, device, precision, workers, threads of the last call that trained
     "runs": [...],              the result.json of every finished run, in the order of StudyConfig.runs()
     "complete": true,           false while runs are missing
     "failed": [...],            {"panel", "embedding", "seed", "train_scaling", "message"} of runs that failed
     "data": {...},              name, source, classes and numbers of images; notes such as a subset that was taken
     "skipped_files": [...],     files of the user's that could not be read, with the reason
     "floors": {...},            for each panel what a model that learned nothing scores (see `floor.py`)
     "costs": {...}}             for each panel the time of a step of each embedding (see `cost.py`); {} until complete
"""

import contextlib
import shutil
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ropevit.data.fashion import load_fashion
from ropevit.data.folder import check_folder, load_folder
from ropevit.data.labelled import LabelledImages
from ropevit.device import resolve_device
from ropevit.files import read_json, write_json
from ropevit.locks import is_empty, lock_folder
from ropevit.machine import available_cores, environment
from ropevit.study.config import StudyConfig
from ropevit.study.cost import measure_costs
from ropevit.study.events import Event, LoadingImages, Report, RunDone, RunFailed
from ropevit.study.fingerprint import SPLITS, describe_differences, digest, fingerprint
from ropevit.study.floor import compute_floors
from ropevit.study.precision import resolve_precision
from ropevit.study.results import read_results
from ropevit.study.stored_runs import refuse_other_study, stored_result
from ropevit.study.workers import SHARED_IMAGES, Images, StudyPlan, run_here, run_in_workers


def run_study(config: StudyConfig, report: Report) -> dict[str, Any]:
    """Run what is missing of a study.

    A run that fails is reported and left out; the others go on.

    Args:
        config: What to compare.
        report: Called with each event, in this process.

    Returns:
        The content of `results.json`, which is also written when the study is interrupted.

    Raises:
        ValueError: If the directory holds another study, or one and `resume` is off; if the images are unusable.
        KeyboardInterrupt: If the user interrupts; every step done is kept and `resume` goes on from there.
    """
    if config.data != "fashion":
        check_folder(Path(config.data).expanduser())
    if config.out.exists() and not config.out.is_dir():
        raise ValueError(f"got the directory {config.out}, which is a file; give another with --out")
    with lock_folder(config.out):
        check_directory(config)
        return run_locked(config, report)


def run_locked(config: StudyConfig, report: Report) -> dict[str, Any]:
    """Do what `run_study` does, in a directory that is this process's alone."""
    images = load_images(config, report)
    seen, earlier = fingerprint(*images), earlier_results(config)
    known = check_images(config, seen, earlier.get("data", {}))
    plan = plan_study(config, digest(seen))
    if plan.runs and not known:
        raise ValueError(
            f"{config.out} was trained before images were compared, and nothing tells whether these are the same; "
            "it can be read as it is, but for more of it give another --out"
        )
    write_json(config.out / "config.json", config.to_dict())
    if known:
        write_json(config.out / "images.json", seen)
    facts = {
        "environment": environment(plan.device, plan.dtype, plan.workers, plan.threads),
        "data": describe_data(*images),
        "skipped_files": sorted({*images[0].skipped, *images[1].skipped}),
        "floors": compute_floors(config, images),
        "costs": {},
    }
    if not plan.runs:  # a call that trains nothing keeps what the one before it wrote
        facts |= {key: earlier[key] for key in ("environment", "costs") if key in earlier}
    failed: list[dict[str, Any]] = []
    try:
        completed = execute(plan, images, report, failed)
    finally:
        results = write_results(plan, facts, failed)
    if not completed:
        raise KeyboardInterrupt
    if results["complete"] and not results["costs"]:
        facts["costs"] = measure_costs(plan, images, report)
        results = write_results(plan, facts, failed)
    return results


def earlier_results(config: StudyConfig) -> dict[str, Any]:
    """Read the results that an earlier call wrote; {} where there are none.

    Raises:
        ValueError: If they are damaged.
    """
    return read_results(config.out) if (config.out / "results.json").exists() else {}


def check_images(config: StudyConfig, seen: dict[str, Any], data: dict[str, Any]) -> bool:
    """Refuse to go on with other images than a study was trained on.

    Args:
        config: The study.
        seen: The fingerprint of the images that are there now.
        data: What an earlier call said about its images.

    Returns:
        Whether the images are known to be the same; not those of a folder before there was a fingerprint.

    Raises:
        ValueError: If they are others.
    """
    path = config.out / "images.json"
    before = {name: {"images": data[f"{name}_images"]} for name in SPLITS if f"{name}_images" in data}
    before |= {"classes": data["classes"]} if "classes" in data else {}
    try:
        before = check_complete(read_json(path), seen) if path.exists() else before
        other = describe_differences(before, seen)
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise ValueError(f"cannot read {path}: it is damaged; give another --out") from None
    if other:
        raise ValueError(
            f"{config.out} was trained on other images ({'; '.join(other)}), and seeds of both would be mixed in one "
            "mean; bring its images back, or give another --out"
        )
    return path.exists() or config.data == "fashion" or not any((config.out / "runs").glob("*/*"))


def check_complete(stored: Any, seen: dict[str, Any]) -> dict[str, Any]:
    """Pass on a stored fingerprint that has all that one has.

    Raises:
        ValueError: If something is missing.
    """
    if [stored.keys(), *(stored[name].keys() for name in SPLITS)] != [
        seen.keys(),
        *(seen[name].keys() for name in SPLITS),
    ]:
        raise ValueError("it is no fingerprint")
    return stored


def plan_study(config: StudyConfig, images: str) -> StudyPlan:
    """List what is left to do with the images of a digest, and share the cores out."""
    device = resolve_device(config.device)
    missing = tuple(run for run in config.runs() if stored_result(config, run, images) is None)
    workers, threads = share_cores(config, device, len(missing))
    return StudyPlan(
        config=config,
        runs=missing,
        device=device,
        dtype=resolve_precision(config.precision, device),
        workers=workers,
        threads=threads,
        images=images,
    )


def execute(plan: StudyPlan, images: Images, report: Report, failed: list[dict[str, Any]]) -> bool:
    """Do a plan, collecting the runs that fail; tell whether it was done to the end, not interrupted."""

    def note(event: Event) -> None:
        if isinstance(event, RunFailed):
            failed.append({**asdict(event.run), "message": event.message})
        report(event)

    for run in plan.config.runs():
        if run not in plan.runs:
            report(RunDone(run=run, result=stored_result(plan.config, run, plan.images) or {}, reused=True))
    with stop_on_interrupt() as stopped:
        do_all = run_here if plan.workers == 1 else run_in_workers
        do_all(plan, images, note, stopped)
    return not stopped.is_set()


def check_directory(config: StudyConfig) -> None:
    """Refuse a directory in which something would be overwritten or mixed up.

    Raises:
        ValueError: As `run_study`.
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
        remove_leftovers(config.out)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process was writing, and the images that it shared with its workers."""
    for part in [*folder.glob(".*.part"), *folder.glob("runs/*/.*.part")]:
        part.unlink(missing_ok=True)
    for images in folder.glob(f"{SHARED_IMAGES}*"):
        shutil.rmtree(images, ignore_errors=True)


def load_images(config: StudyConfig, report: Report) -> Images:
    """Load the training and test images that a config names."""
    if config.data == "fashion":
        return load_fashion("train"), load_fashion("test")
    return load_folder(
        config.data,
        config.image_size(),
        config.max_images,
        progress=lambda done, total: report(LoadingImages(done=done, total=total)),
    )


def describe_data(train: LabelledImages, test: LabelledImages) -> dict[str, Any]:
    """Say what was trained and tested on."""
    return {
        "name": train.name.removesuffix("/train"),
        "source": train.source,
        "classes": list(train.classes),
        "train_images": len(train),
        "test_images": len(test),
        "notes": list(train.notes),
    }


def share_cores(config: StudyConfig, device: torch.device, runs: int) -> tuple[int, int]:
    """Decide on the number of worker processes and the threads of each."""
    if device.type != "cpu":
        return 1, torch.get_num_threads()
    cores = available_cores()
    workers = max(1, min(config.workers or cores, runs))
    return workers, max(1, cores // workers)


def write_results(plan: StudyPlan, facts: dict[str, Any], failed: list[dict[str, Any]]) -> dict[str, Any]:
    """Gather the results of all runs into `results.json`."""
    config = plan.config
    found = [result for run in config.runs() if (result := stored_result(config, run, plan.images)) is not None]
    results = {"config": config.to_dict(), "runs": found, "complete": len(found) == len(config.runs())}
    results |= {"failed": failed, **facts}
    write_json(config.out / "results.json", results)
    return results


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into an event, so that a step is never cut in half; a second one interrupts at once."""
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
