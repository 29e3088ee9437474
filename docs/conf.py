"""`sphinx-build docs build/docs` makes the guide."""

import os
import re
import sys
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent.resolve()
sys.path[:0] = [str(HERE.parent), str(HERE)]  # the sources beside the guide, and two_things.py

project = "vaefast"
version = release = installed("vaefast")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_generated"]
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


def draw_speed(path):
    from benchmarks import report

    report.plot(next(iter(report.committed().values())), path)


def draw_two_things(path):
    import torch
    import two_things

    torch.set_num_threads(1)  # matrices this small are slower on more
    two_things.draw(*two_things.train(), path)


def draw_plots(app):
    """Draws the plots that the pages show, from committed figures and scripts. A plot newer than its sources stays."""
    results = [*(HERE.parent / "benchmarks" / "results").glob("*.json"), HERE.parent / "benchmarks" / "report.py"]
    plots = {"speed": (draw_speed, results), "two_things": (draw_two_things, [HERE / "two_things.py"])}
    (HERE / "_generated").mkdir(exist_ok=True)
    for name, (draw, sources) in plots.items():
        path = HERE / "_generated" / f"{name}.png"
        if path.exists() and path.stat().st_mtime > max(source.stat().st_mtime for source in sources):
            continue
        unfinished = path.with_name(f"{name}.{os.getpid()}.png")  # builds may run at once
        draw(unfinished)
        unfinished.replace(path)


OUTSIDE = re.compile(r"\]\(((?:\.\./)+(?:benchmarks/[\w./]+|CHANGELOG|CONTRIBUTING|README)\.md)\)")


def link_outside(app, docname, source):
    """Markdown files outside the guide are no pages of it, so their links fetch the file."""
    source[0] = OUTSIDE.sub(r"](<path:\1>)", source[0])


def setup(app):
    app.connect("source-read", link_outside)
    app.connect("builder-inited", draw_plots)
    app.connect("autodoc-process-docstring", plain_text, priority=900)
