"""Base of the training tasks of detectors and segmenters."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from ropevit.data.loading import Readable, describe_skipped
from ropevit.tasks.classify.mean_std import initial_mean_std
from ropevit.tasks.distributed import Communicator
from ropevit.tasks.training.events import EvalProgress, Notice, Report, silent
from ropevit.tasks.training.run_training import mean_and_std, train_order

if TYPE_CHECKING:
    from accelerate import Accelerator

BatchT = TypeVar("BatchT")


class DenseTask:
    """Base class of the tasks that train a detector or segmenter; subclasses add batches, loss and evaluation.

    Args:
        config: Options of the training.
        train: Training images.
        test: Validation images.
        accelerator: accelerate's `Accelerator`.
        communicator: Collective communication of the processes.
    """

    def __init__(self, config: Any, train: Any, test: Any, accelerator: "Accelerator", communicator: Communicator):
        self.config, self.train, self.test = config, train, test
        self.accelerator, self.communicator = accelerator, communicator
        self.order = train_order(config, len(train), accelerator)
        self.steps_per_epoch = self.order.steps_per_epoch
        self.classes = train.classes
        self.batch_size = config.batch_size
        self.skipped: list[str] = []
        self.mean_std = initial_mean_std(config.model.body_config(), config.model.init_source() or "")
        self.mean, self.std = mean_and_std(accelerator.device, **self.mean_std)

    def note_skipped(self, source: Readable, unreadable: Sequence[int]) -> None:
        """Record images that could not be read."""
        self.skipped += describe_skipped(source, unreadable)

    def inference_fields(self, short: int, long: int) -> dict[str, Any]:
        """Return the fields of `InferenceSettings` for evaluation with limits on both sides in pixels."""
        return {
            "short": short,
            "long": long,
            "mean": self.mean,
            "std": self.std,
            "workers": self.config.run.workers,
            "world": self.accelerator.num_processes,
            "rank": self.accelerator.process_index,
            "autocast": self.accelerator.autocast,
        }

    def progress(self, report: Report) -> Callable[[int], None]:
        """Return a function that reports the progress of an evaluation from the images that this process has done."""
        world, total = self.accelerator.num_processes, len(self.test)
        return lambda done: report(EvalProgress(done=min(done * world, total), total=total))

    def metadata(self, facts: Any) -> dict[str, Any]:
        """Return the metadata of a saved model that both tasks share."""
        return {**facts, "recipe": self.config.recipe, **self.mean_std}


def make_notify(report: Report, accelerator: "Accelerator") -> Callable[[str], None]:
    """Return a function that reports a line as a notice, in the main process only."""
    main_report = report if accelerator.is_main_process else silent
    return lambda line: main_report(Notice(message=line))


def count_objects(batches: Iterator[BatchT], parts: int, count: Callable[[BatchT], int]) -> Iterator[BatchT]:
    """Store in each micro-batch the number of objects of its whole step, by which the losses are divided.

    All micro-batches of a step are read before the first is returned.

    Args:
        batches: Micro-batches of all steps, in order; named tuples with a field `objects`.
        parts: Micro-batches per step.
        count: Counts the objects of a micro-batch.
    """
    while step := list(islice(batches, parts)):
        objects = sum(map(count, step))
        for batch in step:
            yield batch._replace(objects=objects)  # pyright: ignore[reportAttributeAccessIssue]
