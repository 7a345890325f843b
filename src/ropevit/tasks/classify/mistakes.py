"""What a classifier gets wrong: the prediction of every image, confused classes, and the images of the highest loss."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from ropevit.data.loading import Batch
from ropevit.data.sources import ImageSource
from ropevit.painting import Tile, image_grid, png_bytes, resize_to_side
from ropevit.tasks.distributed import Communicator
from ropevit.tasks.evaluation.confusion import confusion_files
from ropevit.tasks.evaluation.results import to_csv

WORST_TABLE, WORST_PICTURE = "worst.csv", "worst.png"
#: Images of the highest loss in the table, and in the picture, in so many columns of this side in pixels.
IN_TABLE, IN_PICTURE, COLUMNS, SIDE = 100, 16, 4, 224


class LoggedPrediction(NamedTuple):
    """The prediction of an image."""

    image: int
    """Index of the image in the data."""
    label: int
    """True class."""
    predicted: int
    """Most probable class."""
    probability: float
    """Its probability."""
    loss: float
    """Cross-entropy: minus the logarithm of the probability of the true class."""


@dataclass(frozen=True)
class PredictionLog:
    """Collects the predictions of this process."""

    predictions: list[LoggedPrediction] = field(default_factory=list)

    def add(self, batch: Batch, logits: Tensor) -> None:
        """Add the predictions of a batch, from its logits (b, K) on the CPU."""
        logs = logits.log_softmax(-1)
        best, predicted = logs.max(-1)
        losses = -logs.gather(1, batch.labels[:, None])[:, 0]
        columns = batch.indices, batch.labels.tolist(), predicted.tolist(), best.exp().tolist(), losses.tolist()
        self.predictions.extend(map(LoggedPrediction, *columns))

    def gather(self, communicator: Communicator) -> list[LoggedPrediction]:
        """Return the predictions of all processes, the highest loss first."""
        found = [each for part in communicator.all_gather(self.predictions) for each in part]
        return sorted(found, key=lambda each: (-each.loss, each.image))


def mistake_files(
    predictions: Sequence[LoggedPrediction],
    source: ImageSource,
    names: Sequence[str],
    title: str,
    transform: Callable[[Image.Image], Tensor],
) -> dict[str, bytes]:
    """Return the files about a classifier's mistakes by name.

    Args:
        predictions: Of all images, the highest loss first.
        source: The images.
        names: Names of the classes.
        title: Title of the pictures.
        transform: Makes the input of the model (3, S, S), in bytes, of an image.
    """
    pairs = Counter((each.label, each.predicted) for each in predictions)
    classes = dict(zip(source.classes, names, strict=True))
    tiles = [_tile(each, source, names, transform) for each in predictions[:IN_PICTURE]]
    return {
        **confusion_files(pairs, classes, title, "images"),
        WORST_TABLE: _table(predictions[:IN_TABLE], source).encode(),
        WORST_PICTURE: png_bytes(image_grid(tiles, COLUMNS, SIDE)),
    }


def _table(worst: Sequence[LoggedPrediction], source: ImageSource) -> str:
    """Return the images of the highest loss as CSV."""
    lines = []
    for each in worst:
        true, predicted = source.classes[each.label], source.classes[each.predicted]
        lines.append([source.describe(each.image), true, predicted, f"{each.probability:.4f}", f"{each.loss:.4f}"])
    return to_csv(["file", "true", "predicted", "probability", "loss"], lines)


def _tile(
    each: LoggedPrediction, source: ImageSource, names: Sequence[str], transform: Callable[[Image.Image], Tensor]
) -> Tile:
    """Draw an image as the model is given it, with its true and its predicted class."""
    pixels = transform(source.read(each.image)[0]).permute(1, 2, 0).numpy()
    lines = f"true: {names[each.label]}", f"predicted: {names[each.predicted]} {each.probability:.2f}"
    name = Path(source.describe(each.image)).name
    return Tile(resize_to_side(Image.fromarray(pixels), SIDE), "\n".join([*lines, f"{name}, loss {each.loss:.2f}"]))
