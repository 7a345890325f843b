"""HTML reports: self-contained files that look alike."""

import base64
from typing import TYPE_CHECKING

import ropevit
from ropevit.analysis.page import read
from ropevit.drawing import figure_bytes
from ropevit.extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render_report(template: str, **values: object) -> str:
    """Return the HTML of a report.

    Args:
        template: A jinja2 template that extends `report_base.html.j2`, with the blocks `title`, `body` and `raw`.
        values: Values of the template, and of its base: `method` and `notes` (paragraphs), `environment` and `config`
            (JSON).

    Returns:
        HTML with inline figures, styles and scripts; it loads nothing.

    Raises:
        MissingExtraError: If jinja2 is not installed.
    """
    jinja2 = require("jinja2", "figures")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(template).render(version=ropevit.__version__, **values)


def embed_figure(figure: "Figure") -> str:
    """Encode a figure as the source of an image."""
    return embed_png(figure_bytes(figure, "png"))


def embed_png(content: bytes) -> str:
    """Encode a PNG file as the source of an image."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
