"""The pieces of a self-contained HTML page. Each function escapes the text that it is given."""

import base64
import html
from collections.abc import Iterable
from string import Template

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ground: #ffffff; --raised: #f5f7f9; --ink: #24292f; --quiet: #59636e;
  --edge: #d0d5db; --link: #0b57c4; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --raised: #1d2127; --ink: #d8dee4; --quiet: #9aa4af;
  --edge: #3d444d; --link: #6cb6ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 70rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .75rem; padding-top: 1rem; border-top: 1px solid var(--edge); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 1.25rem 0 0; font-size: .9rem; }
p { margin: .5rem 0; max-width: 46rem; }
dl.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
dl.numbers div { background: var(--raised); border-radius: .5rem; padding: .75rem 1rem; }
dt { color: var(--quiet); font-size: .85rem; }
dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
dd small { font-size: .8rem; color: var(--quiet); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem 2rem; }
figure { margin: 1rem 0 0; min-width: 0; }
figure.narrow { max-width: 40rem; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: .5rem; color: var(--quiet); font-size: .9rem; max-width: 46rem; }
.rows { display: grid; grid-template-columns: max-content 1fr; gap: .35rem .75rem; align-items: center; }
.rows span { color: var(--quiet); font-size: .8rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--edge); }
th { font-weight: normal; color: var(--quiet); width: 11rem; }
td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
pre { background: var(--raised); border-radius: .5rem; padding: .75rem 1rem; overflow-x: auto; font-size: .85rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin-top: 1rem; }
summary { cursor: pointer; color: var(--link); }
footer { margin-top: 3rem; color: var(--quiet); font-size: .85rem; }
@media (max-width: 30rem) { th { width: 7.5rem; } }
</style>
</head>
<body>
$body
</body>
</html>
""")


def text(value: object) -> str:
    return html.escape(str(value))


def page(title: str, parts: Iterable[str]) -> str:
    return _PAGE.substitute(title=text(title), body="\n".join(parts))


def image(picture: bytes, alt: str) -> str:
    """Returns an <img> that contains an SVG or PNG."""
    kind = "png" if picture.startswith(b"\x89PNG") else "svg+xml"
    return f'<img alt="{text(alt)}" src="data:image/{kind};base64,{base64.b64encode(picture).decode()}">'


def figure(picture: bytes, alt: str, caption: str, wide: bool = True) -> str:
    narrow = "" if wide else ' class="narrow"'
    return f"<figure{narrow}>\n{image(picture, alt)}\n<figcaption>{text(caption)}</figcaption>\n</figure>"


def figure_rows(pictures: Iterable[tuple[str, bytes]], caption: str) -> str:
    """Returns one figure of several pictures, one below the other, each with its label."""
    rows = "\n".join(f"<span>{text(label)}</span>{image(picture, label)}" for label, picture in pictures)
    inner = f'<div class="rows">\n{rows}\n</div>\n<figcaption>{text(caption)}</figcaption>'
    return f'<figure class="narrow">\n{inner}\n</figure>'


def figures(parts: Iterable[str]) -> str:
    """Returns figures side by side, if the page is wide enough."""
    return '<div class="figures">\n' + "\n".join(parts) + "\n</div>"


def section(name: str, title: str, *parts: str) -> str:
    return f'<section id="{name}">\n<h2>{text(title)}</h2>\n' + "\n".join(parts) + "\n</section>"


def paragraph(words: str) -> str:
    return f"<p>{text(words)}</p>"


def numbers(values: Iterable[tuple[str, str, str]]) -> str:
    """Returns the key numbers of a page from tuples of name, value and unit."""
    cells = (f"<div><dt>{text(n)}</dt><dd>{text(v)} <small>{text(u)}</small></dd></div>" for n, v, u in values)
    return '<dl class="numbers">\n' + "\n".join(cells) + "\n</dl>"


def table(title: str, rows: Iterable[tuple[str, object]]) -> str:
    cells = "\n".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in rows)
    return f"<div>\n<h3>{text(title)}</h3>\n<table>\n{cells}\n</table>\n</div>"


def code(words: str, summary: str = "") -> str:
    block = f"<pre>{text(words)}</pre>"
    return f"<details><summary>{text(summary)}</summary>{block}</details>" if summary else block
