"""A picture of the first training batches after augmentation, as the model is given them."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

from ropevit.files import write_atomically
from ropevit.painting import Tile, add_legend, image_grid, png_bytes
from ropevit.tasks.training.events import Notice, Report
from ropevit.weights.errors import first_line

#: Name of the picture in the directory of a training run.
PICTURE = "train_batches.png"
#: Batches in the picture, and images of each.
BATCHES, IMAGES = 3, 6
#: Smallest and largest side of an image in the picture, in pixels.
SIDES = 112, 320

BatchT = TypeVar("BatchT")


class DrawnBatch(NamedTuple):
    """The first images of a batch, drawn with their labels."""

    tiles: Sequence[Tile]
    labels: Sequence[int] = ()
    """Classes that the legend lists."""


@runtime_checkable
class DrawsBatches(Protocol):
    """A task whose batches can be drawn; optional for a task of the engine."""

    classes: Sequence[str]
    """Names of the classes."""

    def draw_batch(self, batch: Any, step: int, most: int) -> DrawnBatch:
        """Draw at most `most` images of a micro-batch of a step, each at most 320 pixels high and wide."""
        ...


def tile_side(side: int) -> int:
    """Return the side in pixels at which an image of a side in pixels is drawn."""
    return min(max(side, SIDES[0]), SIDES[1])


def draw_first_batches(
    task: DrawsBatches,
    batches: Iterator[BatchT],
    shape: tuple[int, int],
    out: Path,
    seed: Callable[[int, int], None],
    report: Report,
) -> Iterator[BatchT]:
    """Draw the first batches into `out`, and iterate over all of them; a failure to draw is reported alone.

    Args:
        task: Draws a batch.
        batches: Micro-batches from step 0 on.
        shape: Number of steps, and of the micro-batches of each.
        out: Directory of the training.
        seed: Seeds the random numbers of a micro-batch as the training does, from its step and its number in the step.
        report: Called with a notice if the picture cannot be drawn.
    """
    (steps, parts), drawn = shape, list[DrawnBatch]()
    first = list(islice(batches, min(steps * parts, BATCHES)))
    try:
        for number, batch in enumerate(first):
            step, part = divmod(number, parts)
            seed(step, part)
            drawn.append(task.draw_batch(batch, step, IMAGES))
        _write_picture(drawn, task.classes, out / PICTURE)
    except Exception as error:  # whatever it is: the training does not need the picture, and other processes wait
        report(Notice(message=f"{PICTURE} was not drawn: {type(error).__name__}: {first_line(error)}"))
    return chain(first, batches)


def _write_picture(drawn: Sequence[DrawnBatch], classes: Sequence[str], path: Path) -> None:
    """Write a picture of drawn batches, one a row; none if there is nothing in them."""
    tiles = [tile for each in drawn for tile in each.tiles]
    if not tiles:
        return
    side = max(max(tile.image.size) for tile in tiles)
    grid = image_grid(tiles, max(len(each.tiles) for each in drawn), side)
    labels = sorted({label for each in drawn for label in each.labels})
    picture = add_legend(grid, [(label, classes[label]) for label in labels], (2 * side, 2 * side))
    write_atomically(path, lambda file: file.write(png_bytes(picture)))
