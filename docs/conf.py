"""`sphinx-build docs build/docs` makes the guide."""

import re
import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # the sources beside the guide

project = "vaefast"
version = release = installed("vaefast")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"vaefast {version}"
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature's annotations are long, and the text says shapes
napoleon_use_rtype = False
smartquotes_action = "D"  # dashes; the quotes of "mean" are code
pygments_style = "default"
pygments_dark_style = "github-dark"


def plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text: a * or | before a word is no markup there."""
    for k, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            lines[k] = re.sub(r"(?<![\w`*])([*|])(?=[\w(])", r"\\\1", line)


def setup(app):
    app.connect("autodoc-process-docstring", plain_text, priority=900)
