"""The guide in docs/: every block of its pages runs and its outputs are right, it builds without a warning, and it has what it
promises. `<!-- needs PACKAGE -->` before a block skips the block where the package is missing."""

import ast
import doctest
import importlib.util
import inspect
import re
import runpy
import subprocess
import sys
import zlib

import pytest
import torch

import vaefast
from tests.support.native import ROOT
from tests.support.once import once

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
BLOCK = re.compile(r"^(?:<!-- needs (\w+) -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run_page(text: str, name: str) -> tuple[int, set[str]]:
    """Runs a page's blocks in one namespace; (how many ran, the packages that others lacked)."""
    namespace: dict = {"__name__": "guide"}
    ran, missing = 0, set()
    for match in BLOCK.finditer(text):
        package, source = match.groups()
        line = text.count("\n", 0, match.start(2))
        if package and importlib.util.find_spec(package) is None:
            missing.add(package)
        elif source.startswith(">>> "):
            test = doctest.DocTestParser().get_doctest(source, namespace, name, name, line)
            complaints: list[str] = []
            doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(test, out=complaints.append, clear_globs=False)
            assert not complaints, "".join(complaints)
            namespace.update(test.globs)  # a DocTest works on a copy
            ran += 1
        else:
            exec(compile("\n" * line + source, name, "exec"), namespace)
            ran += 1
    return ran, missing


@pytest.mark.parametrize("page", PAGES)
def test_blocks_run(page):
    torch.set_num_threads(1)  # small tensors; conftest restores it
    text = (DOCS / page).read_text()
    assert len(BLOCK.findall(text)) == text.count("```python")  # none is hidden by an indent
    ran, missing = run_page(text, page)
    if missing:
        pytest.skip(f"{ran} blocks ran; those that need {', '.join(missing)} did not")


def test_a_wrong_output_and_a_failing_block_are_seen():
    right = "```python\nx = 1\n```\n\n```python\n>>> x + 1\n2\n```\n"
    assert run_page(right, "page") == (2, set())
    with pytest.raises(AssertionError, match="Expected"):
        run_page(right.replace("\n2\n", "\n3\n"), "page")
    with pytest.raises(ZeroDivisionError):
        run_page(right.replace("x = 1", "x = 1 / 0"), "page")
    lacking = "<!-- needs a_package_that_is_not_here -->\n```python\nx = 1 / 0\n```\n" + right
    assert run_page(lacking, "page") == (2, {"a_package_that_is_not_here"})


@pytest.mark.parametrize("page", PAGES)
def test_code_fits_the_column(page):
    """92 characters are what the theme shows without scrolling."""
    for _, source in BLOCK.findall((DOCS / page).read_text()):
        assert max(map(len, source.splitlines())) <= 92, source


def questions(page: str) -> list[str]:
    return re.findall(r"^## (.+)$", (DOCS / "questions" / page).read_text(), re.MULTILINE)


TOPICS = sorted(path.name for path in (DOCS / "questions").glob("*.md") if path.name != "index.md")
QUESTIONS = [(page, question) for page in TOPICS for question in questions(page)]


def test_the_index_lists_every_question_once():
    """Topic by topic, in order; the links' anchors are the build's to check."""
    index = (DOCS / "questions" / "index.md").read_text()
    listed = [(page, question) for question, page in re.findall(r"^- \[(.+)\]\((\w+\.md)#\S+\)$", index, re.MULTILINE)]
    assert sorted(listed, key=lambda each: each[0]) == QUESTIONS
    assert len({question for _, question in QUESTIONS}) == len(QUESTIONS) > 40
    assert re.findall(r"^\w+$", index.partition("```{toctree}")[2], re.MULTILINE) == [
        page.removesuffix(".md") for page in dict.fromkeys(page for page, _ in listed)
    ]


@pytest.mark.parametrize(("page", "question"), QUESTIONS)
def test_a_question_has_an_answer(page, question):
    text = (DOCS / "questions" / page).read_text()
    answer = text.partition(f"\n## {question}\n")[2].partition("\n## ")[0]
    assert len(BLOCK.sub("", answer).split()) >= 15


PROSE = ["README.md", "CONTRIBUTING.md", *(f"docs/{page}" for page in PAGES)]


@pytest.mark.parametrize("page", PROSE)
def test_the_tests_and_files_that_are_named_exist(page):
    text = (ROOT / page).read_text()
    files = list((ROOT / "tests").rglob("test_*.py"))
    assert not set(re.findall(r"`(test_\w+\.py)`", text)) - {file.name for file in files}
    names = set(re.findall(r"`(test_\w+)`", text))
    source = "".join(file.read_text() for file in files)
    assert not {name for name in names if f"def {name}(" not in source}
    paths = set(re.findall(r"`((?:csrc|vaefast|tests|docs|examples|benchmarks)/[\w./-]*)`", text))
    assert not {path for path in paths if not (ROOT / path).exists()}


def documented() -> set[str]:
    """The names that the reference asks autodoc for."""
    names = set()
    for page in PAGES:
        module = ""
        for kind, name in re.findall(r"^\.\. (\w+):: ([\w.]+)$", (DOCS / page).read_text(), re.MULTILINE):
            if kind == "currentmodule":
                module = f"{name}."
            elif kind.startswith("auto"):
                names.add(name if name.startswith("vaefast.") else module + name)
    return names


def public() -> set[str]:
    modules = ("functional", "likelihoods", "priors", "schedules")
    names = {f"vaefast.{name}" for name in vaefast.__all__ if name not in (*modules, "ELBO")}
    return names | {f"vaefast.{m}.{name}" for m in modules for name in getattr(vaefast, m).__all__}


def test_the_reference_has_every_public_name():
    assert public() - documented() == set()


API = (DOCS / "api.md").read_text()


def rows(heading: str) -> list[str]:
    """The first cells of the tables in a section of docs/api.md."""
    section = API.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table = re.findall(r"^\| (`[^|]*`) \|", section.replace("\\|", "/"), re.MULTILINE)
    assert table, heading
    return table


def signatures() -> dict[str, str]:
    """Every call that the tables of docs/api.md show, by its name."""
    cells = re.findall(r"^\| (`[^|]*`) \|", API, re.MULTILINE)
    calls = [code for cell in cells for code in re.findall(r"`([\w.]+\([^`]*\))`", cell)]
    named = {call.partition("(")[0]: call for call in calls}
    assert len(named) == len(calls)
    return named


def parameters(thing: object) -> tuple[list[str], list[str]]:
    """(names of the parameters that may be given by position, names of those that may not), without self."""
    taken = inspect.signature(thing).parameters.values()
    by_name = [p.name for p in taken if p.kind is p.KEYWORD_ONLY]
    return [p.name for p in taken if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"], by_name


def test_the_tables_have_every_public_name():
    """A module's functions and classes by their short names, and the module itself."""
    shown = set(re.findall(r"^\| `(?:vaefast\.)?(\w+)` \|", API, re.MULTILINE)) | set(signatures())
    modules = {"functional", "likelihoods", "priors", "schedules"}
    names = set(vaefast.__all__).union(*(getattr(vaefast, module).__all__ for module in modules))
    assert names - shown == set()
    assert len(shown) > 55


@pytest.mark.parametrize("name", signatures())
def test_a_call_in_the_tables_is_the_call_of_the_code(name):
    """The names of its parameters, in order, and which of them need their names."""
    homes = (vaefast, vaefast.functional, vaefast.likelihoods, vaefast.priors, vaefast.schedules)
    first, *path = name.split(".")
    thing = next(getattr(home, first) for home in homes if first in home.__all__)
    for part in path:
        thing = getattr(thing, part)
    shown = ast.parse(f"def {signatures()[name].replace(name, 'f')}: pass").body[0].args
    assert ([arg.arg for arg in shown.args], [arg.arg for arg in shown.kwonlyargs]) == parameters(thing)


def test_a_wrong_call_in_the_tables_is_seen():
    assert parameters(vaefast.functional.hierarchical_kl) == (["layers"], [])
    assert parameters(vaefast.functional.free_bits_kl) != (["kl", "free_bits"], ["per", "nothing"])


@pytest.mark.parametrize(
    ("heading", "method", "tensors"),
    [
        ("Options of ELBOLoss", "__init__", 0),
        ("Options of its call", "forward", 4),
    ],
)
def test_the_tables_have_every_option(heading, method, tensors):
    """Every keyword, once, in order."""
    named = [name for cell in rows(heading) for name in re.findall(r"`(\w+)`", cell)]
    positional, keywords = parameters(getattr(vaefast.ELBOLoss, method))
    assert named == [*positional[tensors:], *keywords]


def test_a_call_passes_at_most_twelve_files():
    """docs/a_call.md lists them in order, each once; that they exist is tested above."""
    steps = re.findall(r"^(\d+)\. `([\w./]+)`: ", (ROOT / "docs" / "a_call.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    assert 8 <= len({file for _, file in steps}) == len(steps) <= 12
    assert steps[0][1] == "vaefast/losses/elbo.py" and steps[-1][1] == "csrc/math/terms/bernoulli.h"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package)

    def build(folder):
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "-W",
            "--keep-going",
            "-q",
            "-b",
            "html",
            "-d",
            str(folder / "trees"),
        ]
        run = subprocess.run([*command, str(DOCS), str(folder / "html")], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr

    return once(tmp_path_factory, "guide", build) / "html"


def test_it_builds_without_a_warning(built):
    assert all((built / page).with_suffix(".html").exists() for page in PAGES)


def test_the_plots_are_drawn(built):
    for name in ("speed", "two_things"):
        assert (built / "_images" / f"{name}.png").stat().st_size > 10_000


def test_the_reference_holds_what_it_names(built):
    """In the built page's inventory, and with the docstring's text."""
    inventory = zlib.decompress((built / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    objects = {line.split()[0] for line in inventory.splitlines() if line.split()[1].startswith("py:")}
    assert public() - objects == set()
    assert {"vaefast.VAE.loss", "vaefast.VAE.log_likelihood"} <= objects  # the latter is inherited
    assert "appendix B, rearranged so that nothing" in (built / "api_functional.html").read_text()


def test_the_two_things(tmp_path, capsys, monkeypatch):
    """The script of a plot: its closed forms agree with vaefast's estimates, its maximum with PCA's, and its figures
    with the page."""
    for package in ("matplotlib", "sklearn"):
        pytest.importorskip(package)
    from sklearn.decomposition import PCA

    torch.set_num_threads(1)
    file, page = DOCS / "two_things.py", (DOCS / "from_the_elbo_to_code.md").read_text()
    assert "\npython docs/two_things.py\n" in page and "](_generated/two_things.png)" in page
    monkeypatch.setattr(sys, "argv", [str(file), "--epochs", "10", "--out", str(tmp_path / "two_things.png")])
    script = runpy.run_path(str(file), run_name="__main__")
    first, *_, most = capsys.readouterr().out.strip().splitlines()
    assert f"\n{first}\n" in page and f"\n{most}\n" in page
    assert (tmp_path / "two_things.png").stat().st_size > 10_000

    curve, most = script["train"](10)
    assert curve[-1][0] > curve[0][0] + 25 and curve[-1][1] < curve[0][1] / 10
    assert all(log_px < most and gap > 0 for log_px, gap in curve)
    x = script["data"].load("digits").train.flatten(1)
    assert most == pytest.approx(PCA(script["LATENT"]).fit(x.double().numpy()).score(x.double().numpy()), abs=1e-3)

    torch.manual_seed(0)
    vae = vaefast.mlp_vae(
        (64,), script["LATENT"], hidden_dims=(), likelihood=vaefast.likelihoods.Gaussian(learn_scale=True)
    )
    with torch.no_grad():
        log_px, gap = script["exact"](vae, x)
        bound = torch.stack([vae.elbo(x).elbo.mean() for _ in range(40)])
    assert bound.mean().item() == pytest.approx(log_px - gap, abs=6 * (bound.std() / 40**0.5).item())
