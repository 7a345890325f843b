"""HTML page of a model's analyses: one self-contained file."""

import base64
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from typing import NamedTuple

import ropevit
from ropevit.analysis.explorer import ExplorerData
from ropevit.extras import require


class Section(NamedTuple):
    """One section of the page."""

    name: str
    """The figure's name, unique in the page."""
    title: str
    text: str
    """Explanation of the figure; blank lines separate paragraphs."""
    svg: str | None = None
    """The figure as SVG."""
    note: str | None = None
    """Note beside the figure, or in its place."""


def render(
    title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section], explorer: ExplorerData | str
) -> str:
    """Return the HTML of the page.

    Args:
        title: Heading, such as the model's name.
        facts: Properties of the model: pairs of label and value.
        sections: Analyses, in the order of the page.
        explorer: Data of the interactive explorer, or the reason why there is none.

    Returns:
        HTML with inline figures, styles and scripts; it loads nothing.

    Raises:
        ValueError: If jinja2 is not installed.
    """
    jinja2 = require("jinja2", "figures")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    markup = require("markupsafe", "figures").Markup
    return environment.from_string(read("page.html.j2")).render(
        title=title,
        facts=facts,
        sections=[(section, paragraphs(section.text), _inline_svg(section.svg)) for section in sections],
        explorer=None if isinstance(explorer, str) else asdict(explorer),
        missing=explorer,
        style=markup(read("page.css")),
        script=markup(read("explorer.js")),
        version=ropevit.__version__,
    )


def read(name: str) -> str:
    """Read a data file of this package."""
    return resources.files("ropevit.analysis").joinpath(name).read_text(encoding="utf-8")


def paragraphs(text: str) -> list[str]:
    """Split a text at its blank lines."""
    return [part for part in text.split("\n\n") if part.strip()]


def _inline_svg(svg: str | None) -> str | None:
    """Encode a figure as a data URI: inside an `img`, its scripts cannot act on the page."""
    return None if svg is None else f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
