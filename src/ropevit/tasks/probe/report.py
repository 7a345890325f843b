"""Report of a probe: the curves as PNG, and one self-contained HTML file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ropevit.analysis.report import embed_png, render_report
from ropevit.drawing import figure_bytes
from ropevit.files import write_atomically, write_text
from ropevit.tasks.probe.config import ProbeConfig
from ropevit.tasks.probe.figure import draw_probes
from ropevit.tasks.probe.linear import HELD_OUT, PENALTIES
from ropevit.tasks.probe.rows import PROBES, ProbeRow
from ropevit.text import printable

#: Output files.
REPORT, CURVE = "report.html", "curve.png"

_POOLING = {
    "model": "what its head would read (class token, mean patch or attention pooling)",
    "mean": "the mean of its patches",
    "both": "what its head would read, and the mean of its patches behind it",
}


@dataclass(frozen=True, kw_only=True)
class ProbeSummary:
    """Content of a report."""

    model: str
    position: str
    """Position embedding of the model."""
    trained_at: int
    """The training size in pixels."""
    data: str
    """Name of the test images."""
    rows: tuple[ProbeRow, ...]
    conclusions: tuple[str, ...]
    missing: int
    """Number of rows that are not measured yet."""
    config: ProbeConfig
    classes: int
    """Number of classes."""
    notes: tuple[str, ...]
    environment: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Model, position embedding and data in one line."""
        return f"frozen features of {self.model} on {self.data}, 95 % intervals"


def write_report(out: Path, summary: ProbeSummary) -> Path:
    """Draw the curves and write the report; those of an earlier call are replaced.

    Returns:
        The report.
    """
    figure = draw_probes(summary.rows, summary.position, summary.trained_at, summary.title)
    picture = figure_bytes(figure, "png")
    write_atomically(out / CURVE, lambda file: file.write(picture))
    template = resources.files("ropevit.tasks.probe").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = render_report(
        template,
        model=printable(summary.model),
        data=printable(summary.data),
        missing=summary.missing,
        conclusions=summary.conclusions,
        curve=embed_png(picture),
        trained_at=summary.trained_at,
        own=next(row.scaling for row in summary.rows if row.is_reference),
        probes=PROBES,
        rows=[table_cells(row) for row in summary.rows],
        best=_best(summary.rows),
        method=describe_method(summary),
        notes=[printable(note) for note in summary.notes],
        environment=json.dumps(summary.environment, indent=2),
        config=json.dumps(asdict(summary.config), indent=2, default=str),
    )
    write_text(out / REPORT, page)
    return out / REPORT


def table_cells(row: ProbeRow) -> dict[str, Any]:
    """Return the cells of a row as text, by column; the reference has no difference."""
    return {
        "size": f"{row.size} px",
        "features": "reference" if row.is_reference else row.label,
        "tokens": f"{row.tokens:,}",
        "images/s": f"{row.images_per_second:,.0f}",
        "accuracy": {probe: str(interval) for probe, interval in row.accuracy.items()},
        "change": {probe: "" if row.is_reference else interval.signed for probe, interval in row.change.items()},
    }


def _best(rows: tuple[ProbeRow, ...]) -> dict[str, list[bool]]:
    """Return for each probe whether a row has the highest accuracy of its size."""
    top = {
        (probe, row.size): max(other.accuracy[probe].value for other in rows if other.size == row.size)
        for probe in PROBES
        for row in rows
    }
    return {probe: [row.accuracy[probe].value == top[probe, row.size] for row in rows] for probe in PROBES}


def _dino(config: ProbeConfig) -> str:
    """Name the source of the default number of neighbors and temperature."""
    usual = config.neighbors == ProbeConfig.neighbors and config.temperature == ProbeConfig.temperature
    return "; the values of DINO, arXiv:2104.14294" if usual else ""


def _unread(count: int) -> str:
    """Tell how many more images could not be read."""
    return f" ({count:,} more could not be read)" if count else ""


def describe_method(summary: ProbeSummary) -> list[str]:
    """Return paragraphs that describe how it was measured."""
    config, row = summary.config, next(row for row in summary.rows if row.is_reference)
    return [
        f"The weights stay as they are. The features of an image are {_POOLING[config.pooling]}, after the final norm. "
        f"Both probes learn from {row.train_images:,} training images of {summary.classes} classes"
        f"{_unread(row.train_skipped)}, and are measured on {row.images:,} other images{_unread(row.skipped)}; "
        "the features of both are computed at the same size and in the same way.",
        f"k-NN: the {config.neighbors} training images with the highest cosine similarity vote with weight "
        f"exp(similarity / {config.temperature:g}) (Wu et al. 2018, arXiv:1805.01978{_dino(config)}).",
        "Linear: logistic regression of the standardized features by L-BFGS; the L2 penalty is chosen among "
        f"{', '.join(f'{penalty:g}' for penalty in PENALTIES)} on {HELD_OUT:.0%} of each class of the training images, "
        "after which it is fitted to all of them (protocol of Radford et al. 2021, arXiv:2103.00020). It never sees a "
        "test image.",
        "Intervals of an accuracy are Wilson's, over test images. Differences are to the model as it is at its "
        "training size, on the same test images, with Bonett and Price's interval of paired proportions. Neither "
        "covers the choice of training images. The best of many rows is too high by chance: a method chosen here "
        "should be measured on other images.",
        "Images/s are of copying images to the device, normalization, tiles or resizing, and the model, without "
        "reading files and without the first batch. Tokens are the patches of an image, of all its tiles together. "
        "On the grid of the training, scaling methods change nothing, so that size has one row. "
        "Tiles and resized images have the model's own scaling.",
    ]
