"""Where the trainings of a study happen: in this process, or shared out among worker processes."""

import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from ropevit.data.labelled import LabelledImages
from ropevit.study.config import StudyConfig
from ropevit.study.events import Report, Run, RunDone, RunFailed
from ropevit.study.job import Interrupted, RunJob
from ropevit.study.panels import PANEL_CLASSES, Panel
from ropevit.study.train import train

#: Seconds between two looks at the workers and at the stop event.
_POLL = 0.2
#: Start of the name of the folder in which workers find the images.
SHARED_IMAGES = ".images-"

Images = tuple[LabelledImages, LabelledImages]
Panels = Callable[[str], Panel]


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """The runs to do, and how."""

    config: StudyConfig
    runs: tuple[Run, ...]
    device: torch.device
    dtype: torch.dtype
    workers: int
    threads: int
    images: str | None = None
    """Digest of the images' fingerprint, which every run keeps."""


def run_here(plan: StudyPlan, images: Images, report: Report, stopped: threading.Event) -> None:
    """Do the runs one after the other in this process, until done or stopped."""
    panels = _make_panels(plan, (images[0].to(plan.device), images[1].to(plan.device)))
    for run in plan.runs:
        if stopped.is_set():
            return
        _execute_run(plan, panels, run, report, stopped)


def _make_panels(plan: StudyPlan, images: Images) -> Panels:
    """Make each panel once, when it is first needed: preparing a user's images can take a while."""

    @functools.cache
    def panel(name: str) -> Panel:
        return PANEL_CLASSES[name](plan.config.settings(name), *images)

    return panel


def _execute_run(plan: StudyPlan, panels: Panels, run: Run, report: Report, stopped: Any) -> None:
    """Do one run and report how it ended; `stopped` is an event of threads or of processes."""
    parent = os.getppid()
    try:
        job = RunJob(
            run=run,
            panel=panels(run.panel),
            folder=plan.config.out / "runs" / run.name,
            device=plan.device,
            dtype=plan.dtype,
            report=report,
            should_stop=lambda: stopped.is_set() or os.getppid() != parent,
            scaling=plan.config.scaling or (),
            images=plan.images,
        )
        report(RunDone(run=run, result=train(job)))
    except Interrupted:
        return
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: out of memory, among others
        report(RunFailed(run=run, message=" ".join(str(error).split())))


def run_in_workers(plan: StudyPlan, images: Images, report: Report, stopped: threading.Event) -> None:
    """Share the runs out among processes and pass on what they report, until done or stopped.

    The images are written once to a temporary file that all workers map.
    """
    context = multiprocessing.get_context("spawn")
    tasks, events, stop = context.Queue(), context.Queue(), context.Event()
    for task in (*plan.runs, *[None] * plan.workers):
        tasks.put(task)
    with tempfile.TemporaryDirectory(prefix=SHARED_IMAGES, dir=plan.config.out) as folder:
        store = Path(folder) / "images.pt"
        torch.save([dict(vars(part)) for part in images], store)
        arguments = (plan, store, tasks, events, stop)
        processes = [context.Process(target=_run_worker, args=arguments, daemon=True) for _ in range(plan.workers)]
        try:
            with _ignore_interrupts():
                for process in processes:
                    process.start()
            _listen(plan, processes, events, report, stopped, stop)
        finally:
            stop.set()
            for process in processes:
                process.join(timeout=30)
                process.kill()
            tasks.cancel_join_thread()


@contextlib.contextmanager
def _ignore_interrupts() -> Iterator[None]:
    """Let processes that start here be born deaf to Ctrl-C: importing torch, they could only print a traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change what a signal does
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run_worker(plan: StudyPlan, store: Path, tasks: Any, events: Any, stop: Any) -> None:
    """Do runs until there are none left: the main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides, and tells by the event
    torch.set_num_threads(plan.threads)
    train, test = (LabelledImages(**part) for part in torch.load(store, mmap=True, weights_only=True))
    panels = _make_panels(plan, (train, test))
    while not stop.is_set():
        run = tasks.get()
        if run is None:
            return
        _execute_run(plan, panels, run, events.put, stop)


def _listen(
    plan: StudyPlan, processes: Sequence[BaseProcess], events: Any, report: Report, stopped: threading.Event, stop: Any
) -> None:
    """Pass events on until every run has ended or every worker is gone; report the runs of a worker that died."""
    open_runs = set(plan.runs)
    while open_runs:
        if stopped.is_set():
            stop.set()
        alive = any(process.is_alive() for process in processes)
        try:
            event = events.get(timeout=_POLL)
        except queue.Empty:
            if alive:
                continue
            break
        if isinstance(event, RunDone | RunFailed):
            open_runs.discard(event.run)
        report(event)
    if not stopped.is_set():
        for run in plan.runs:
            if run in open_runs:
                report(RunFailed(run=run, message="its worker process ended early, perhaps for want of memory"))
