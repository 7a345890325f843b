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
from ropevit.tasks.probe.kinds import IMAGE, ProbeKind
from ropevit.tasks.probe.report_method import describe_images, describe_patches
from ropevit.tasks.probe.rows import ProbeRow
from ropevit.text import format_speed, printable

#: Output files.
REPORT, CURVE = "report.html", "curve.png"


@dataclass(frozen=True, kw_only=True)
class ProbeSummary:
    """Content of a report."""

    kind: ProbeKind
    """What the probes measure."""
    model: str
    position: str
    """Position embedding of the model."""
    trained_at: int
    """The training size in pixels."""
    data: str
    """Name of the test images."""
    rows: tuple[ProbeRow, ...]
    majority: tuple[int, float] | None
    """The most frequent class in training, and the mean IoU of every pixel of it; None for images of classes."""
    conclusions: tuple[str, ...]
    missing: int
    """Number of rows that are not measured yet."""
    config: ProbeConfig
    classes: tuple[str, ...]
    """Names of the classes."""
    notes: tuple[str, ...]
    environment: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Model, position embedding and data in one line."""
        return f"frozen features of {self.model} on {self.data}, 95 % intervals"

    @property
    def levels(self) -> dict[str, float]:
        """Horizontal lines of the figure, by label."""
        if self.majority is None:
            return {}
        label, score = self.majority
        return {f"every pixel {printable(self.classes[label])}: nothing learned": score}


def write_report(out: Path, summary: ProbeSummary) -> Path:
    """Draw the curves and write the report; those of an earlier call are replaced.

    Returns:
        The report.
    """
    figure = draw_probes(summary.rows, summary.position, summary.trained_at, summary.title, summary.levels)
    picture = figure_bytes(figure, "png")
    write_atomically(out / CURVE, lambda file: file.write(picture))
    reference = next(row for row in summary.rows if row.is_reference)
    describe = describe_images if summary.kind is IMAGE else describe_patches
    template = resources.files("ropevit.tasks.probe").joinpath("report.html.j2").read_text(encoding="utf-8")
    page = render_report(
        template,
        model=printable(summary.model),
        data=printable(summary.data),
        missing=summary.missing,
        conclusions=summary.conclusions,
        curve=embed_png(picture),
        trained_at=summary.trained_at,
        own=reference.scaling,
        kind=summary.kind,
        probes=summary.kind.probes,
        classes=summary.classes,
        majority=summary.majority,
        rows=[table_cells(row) for row in summary.rows],
        best=_best(summary.rows),
        method=describe(summary.config, reference, len(summary.classes)),
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
        "images/s": format_speed(row.images_per_second),
        "score": {probe: str(interval) for probe, interval in row.scores.items()},
        "change": {probe: "" if row.is_reference else interval.signed for probe, interval in row.change.items()},
    }


def _best(rows: tuple[ProbeRow, ...]) -> dict[str, list[bool]]:
    """Return for each probe whether a row has the highest score of its size."""
    top = {
        (probe, row.size): max(other.scores[probe].value for other in rows if other.size == row.size)
        for probe in rows[0].kind.probes
        for row in rows
    }
    return {probe: [row.scores[probe].value == top[probe, row.size] for row in rows] for probe in rows[0].kind.probes}
