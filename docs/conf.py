"""How the guide becomes a site: `make docs`. The root of the sources is the repository's, so links are files' own."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # importing the package's doors to other libraries asks no hub

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src")]

from ropevit import __version__  # noqa: E402

project = "ropevit"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "mathml"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "benchmarks/results/**.md", "CHANGELOG.md"]
exclude_patterns = [".*", "dist", "runs", "site", "src", "tests"]  # not walked through
suppress_warnings = ["toc.no_title"]  # tables of results without a heading

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
smartquotes_action = "D"  # dashes alone: quotes stay as written

default_role = "py:obj"  # `name` in a docstring: a link where there is something to link to, else code
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "extra_repr"}
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False

html_math_renderer = "mathml"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["guide.css"]
html_title = f"ropevit {version}"
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False


def drop_aliases(app, what, name, obj, options, lines):  # noqa: ARG001
    """Leave out what Python says of the fields of a NamedTuple."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()


def setup(app):
    """Register the function above with Sphinx."""
    app.connect("autodoc-process-docstring", drop_aliases)
