"""Runs the trainings of a study: in this process, or divided among worker processes."""

import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch

from ropevit.data.labeled import LabeledImages
from ropevit.study.config import StudyConfig
from ropevit.study.events import Event, Report, Run, RunDone, RunFailed
from ropevit.study.job import RunJob, StopRequested
from ropevit.study.panels import PANEL_CLASSES, Panel
from ropevit.study.train import train
from ropevit.study.tuning import hold_out, tuning_panels
from ropevit.tasks.evaluation.scaling_search import Half
from ropevit.tasks.evaluation.tuned_scaling import AUTO

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

#: Seconds between two checks of the workers and of the stop event.
_POLL = 0.2
#: Prefix of the temporary folder with the images for the workers.
SHARED_IMAGES = ".images-"

Images = tuple[LabeledImages, LabeledImages]


class PanelPair(NamedTuple):
    """A panel, and panels of held-out training images for `--scaling auto`."""

    panel: Panel
    tuning: Mapping[Half, Panel] | None


Panels = Callable[[str], PanelPair]


@runtime_checkable
class StopEvent(Protocol):
    """An event of `threading` or of `multiprocessing`."""

    def is_set(self) -> bool:
        """Return whether the run is to stop."""
        ...

    def set(self) -> None:
        """Ask the run to stop."""
        ...


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """Runs of a study, and how to compute them."""

    config: StudyConfig
    runs: tuple[Run, ...]
    device: torch.device
    dtype: torch.dtype
    workers: int
    threads: int
    images: str | None = None
    """Digest of the fingerprint of the images, stored with every run."""


def run_here(plan: StudyPlan, images: Images, report: Report, stopped: threading.Event) -> None:
    """Execute the runs sequentially in this process, until done or stopped."""
    panels = _make_panels(plan, (images[0].to(plan.device), images[1].to(plan.device)))
    for run in plan.runs:
        if stopped.is_set():
            return
        _execute_run(plan, panels, run, report, stopped)


def _make_panels(plan: StudyPlan, images: Images) -> Panels:
    """Return a function that makes each panel once, when first needed: preparing a user's images can take a while."""
    train, test = images
    train, halves = hold_out(train) if AUTO in (plan.config.scaling or ()) else (train, None)

    @functools.cache
    def panels(name: str) -> PanelPair:
        settings, make = plan.config.settings(name), PANEL_CLASSES[name]
        return PanelPair(
            make(settings, train, test), None if halves is None else tuning_panels(make, settings, train, halves)
        )

    return panels


def _execute_run(plan: StudyPlan, panels: Panels, run: Run, report: Report, stopped: StopEvent) -> None:
    """Execute one run and report its end."""
    parent = os.getppid()
    try:
        panel, tuning = panels(run.panel)
        job = RunJob(
            run=run,
            panel=panel,
            tuning=tuning,
            folder=plan.config.out / "runs" / run.name,
            device=plan.device,
            dtype=plan.dtype,
            report=report,
            should_stop=lambda: stopped.is_set() or os.getppid() != parent,
            scaling=plan.config.scaling or (),
            images=plan.images,
        )
        report(RunDone(run=run, result=train(job)))
    except StopRequested:
        return
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: out of memory, among others
        report(RunFailed(run=run, message=" ".join(str(error).split())))


def run_in_workers(plan: StudyPlan, images: Images, report: Report, stopped: threading.Event) -> None:
    """Divide the runs among processes and forward their events, until done or stopped.

    The images are written once to a temporary file that all workers map into memory.
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
    """Start processes with SIGINT ignored: on Ctrl-C while importing torch, they would print a traceback."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run_worker(
    plan: StudyPlan, store: Path, tasks: "Queue[Run | None]", events: "Queue[Event]", stop: StopEvent
) -> None:
    """Execute runs from the queue until it is empty: the main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it, and sets the stop event
    torch.set_num_threads(plan.threads)
    train, test = (LabeledImages(**part) for part in torch.load(store, mmap=True, weights_only=True))
    panels = _make_panels(plan, (train, test))
    while not stop.is_set():
        run = tasks.get()
        if run is None:
            return
        _execute_run(plan, panels, run, events.put, stop)


def _listen(
    plan: StudyPlan,
    processes: Sequence[BaseProcess],
    events: "Queue[Event]",
    report: Report,
    stopped: threading.Event,
    stop: StopEvent,
) -> None:
    """Forward events until every run or every worker has ended; report the runs of workers that died."""
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
                report(RunFailed(run=run, message="its worker process ended early, perhaps for lack of memory"))
