"""`vaefast report`: a page that needs nothing but itself, says what the run says, and takes no words of it for HTML."""

import base64
import gzip
import io
import json
import re
import shlex
import struct
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from tests.support.command import run
from vaefast.cli import options, settings
from vaefast.cli.config import Config, load_data

Image = pytest.importorskip("PIL.Image")
datasets = pytest.importorskip("sklearn.datasets")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")
from vaefast.cli import pictures, runs  # noqa: E402
from vaefast.cli.report import figures, sections  # noqa: E402
from vaefast.cli.report import html as page  # noqa: E402
from vaefast.cli.report import measure as examine  # noqa: E402

QUICK = ["--epochs", "2", "--hidden-dims", "16", "--latent-dim", "3", "--num-samples", "5"]
SECTIONS = [
    "curves",
    "reconstructions",
    "samples",
    "traversals",
    "codes",
    "dimensions",
    "bounds",
    "ess",
    "card",
    "reproduce",
]
VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """What a browser would see: elements, their text, and whether they close as they opened."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements, self.open, self.words, self.captions, self.text = [], [], [], [], {}
        self.feed(self.source)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "figcaption":
            self.captions.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, words):
        self.words.append(words)
        if self.open:
            self.text.setdefault(self.open[-1], []).append(words)
            if self.open[-1] == "figcaption":
                self.captions[-1] += words

    def having(self, name):
        return [attributes[name] for _, attributes in self.elements if name in attributes]

    def images(self):
        for source in self.having("src"):
            kind, content = re.fullmatch(r"data:image/(png|svg\+xml);base64,(.*)", source).groups()
            yield kind, base64.b64decode(content, validate=True)


def write_page(folder, *options):
    assert run("report", folder, "--num-samples", "20", *options) == 0
    return Page(folder / "report.html")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "run"
    assert run("train", *QUICK, "--epochs", "3", "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def digits_page(digits):
    return write_page(digits)


def assert_whole(p):
    """Every section, every picture, nothing from elsewhere."""
    ids = p.having("id")
    assert ids == SECTIONS
    assert p.having("href") == [f"#{name}" for name in SECTIONS]
    assert not {tag for tag, _ in p.elements} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not [a for _, attributes in p.elements for a in attributes if a.startswith("on") or a in ("style", "srcset")]
    (style,) = p.text["style"]
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    pictures = list(p.images())
    assert len(pictures) >= 11
    for kind, content in pictures:
        if kind == "png":
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()
                assert picture.mode == "RGBA" and picture.width >= 300
            continue
        root = ET.fromstring(content)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert sum(e.tag.endswith("}path") for e in root.iter()) > 10
        links = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
        assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)
        assert b"prefers-color-scheme:dark" in content and b"<script" not in content
        assert not re.search(rb"#0\w0\w0\w|#101112", content)  # a color that no page has set
    assert all(attributes.get("alt") for tag, attributes in p.elements if tag == "img")


def test_page_is_whole(digits_page):
    assert_whole(digits_page)
    head = [attributes for tag, attributes in digits_page.elements if tag == "meta"]
    assert {"charset": "utf-8"} in head and any(a.get("name") == "viewport" for a in head)
    assert "run" in digits_page.text["h1"]


def test_every_figure_has_one_sentence(digits_page):
    figures = [tag for tag, _ in digits_page.elements if tag == "figure"]
    assert len(figures) == len(digits_page.captions) == 13
    for caption in digits_page.captions:
        assert 60 < len(caption) < 300 and caption.endswith(".")
        assert not re.search(r"\. [A-Z]", caption), caption


def test_page_says_what_the_run_says(digits, digits_page):
    config, _, vae = runs.load_run(digits, torch.device("cpu"))
    metrics = runs.read_metrics(digits)
    words = " ".join(digits_page.words)
    best = max(metrics, key=lambda row: row["test_elbo"])
    assert f"{best['test_elbo']:.2f}, is that of epoch {best['epoch']}" in words
    assert f"{sum(p.numel() for p in vae.parameters()):,}" in words
    assert "1,438 to train on, 359 held out" in words and torch.__version__ in words
    cells = list(zip(digits_page.text["th"], digits_page.text["td"], strict=True))
    for name in config.__dataclass_fields__:
        assert name in [th for th, _ in cells], name
    assert ("lr", "0.001") in cells and ("latent_dim", "3") in cells
    first = [w.strip() for w in digits_page.text["dd"] if w.strip()]
    elbo, log_px, gap, kl = (float(v) for v in first[:4])
    assert elbo < log_px and gap == pytest.approx(log_px - elbo, abs=0.011)
    assert elbo == pytest.approx(metrics[-1]["test_elbo"], abs=0.5)
    assert kl == pytest.approx(metrics[-1]["test_kl"], abs=0.01)


def test_same_run_same_page(digits, digits_page, tmp_path):
    assert run("report", digits, "--num-samples", "20", "--out", tmp_path / "again.html") == 0
    assert (tmp_path / "again.html").read_text() == digits_page.source


def test_words_of_a_run_are_no_html(tmp_path):
    """A hostile name of a file and of a folder: each is there as text, and adds no element."""
    hostile = tmp_path / "<script>alert(1)<" / "x onerror=alert(1)><b>\"'&amp;${title}.npy"
    hostile.parent.mkdir()
    np.save(hostile, np.random.default_rng(0).random((30, 8, 8)))
    folder = tmp_path / "<title><img src=x>"
    assert run("train", "--data", hostile, *QUICK, "--out", folder) == 0
    p = write_page(folder)
    assert_whole(p)
    assert str(hostile) in p.text["td"] and "<title><img src=x>" in p.text["h1"]
    assert "<title><img src=x>: a run of vaefast" in p.text["title"]
    assert {tag for tag, _ in p.elements}.isdisjoint({"script", "b"})
    (command,) = [words for words in p.text["pre"] if words.startswith("vaefast train")]
    assert str(hostile) in shlex.split(command)


def test_pieces_escape():
    evil = "<i>&\"'</i>"
    png = pictures.tiles(torch.rand(1, 1, 4, 4), 1, (0, 1))
    for made in (
        page.page(evil, []), page.image(png, evil), page.figure(png, evil, evil), page.figure_rows([(evil, png)], evil),
        page.section("a", evil), page.paragraph(evil), page.numbers([(evil, evil, evil)]), page.table(evil, [(evil, evil)]),
        page.code(evil), page.code(evil, evil),
    ):  # fmt: skip
        assert "<i>" not in made and "&lt;i&gt;&amp;&quot;&#x27;&lt;/i&gt;" in made


@pytest.mark.parametrize("latent", [1, 2, 20])
def test_latents_of_any_size(tmp_path, latent):
    assert run("train", *QUICK, "--latent-dim", latent, "--out", tmp_path / "run") == 0
    p = write_page(tmp_path / "run")
    assert_whole(p)
    rows = [w for w in p.text["span"] if re.fullmatch(r"z\d+", w)]
    assert len(rows) == len(set(rows)) == min(10, latent)
    assert any("The whole plane of codes" in caption for caption in p.captions) == (latent == 2)


def data_of(kind, folder):
    """A file of each kind of data, and how to train on it."""
    random = np.random.default_rng(0)
    path = folder / "data.npy"
    if kind == "color":
        np.save(path, random.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
        return path, ["--model", "conv", "--channels", "4"]
    if kind == "counts":
        np.save(path, random.poisson(3.0, (60, 12)))
        return path, ["--likelihood", "negative_binomial"]
    if kind == "wide":
        np.save(path, random.normal(size=(40, 300)))
        return path, ["--likelihood", "gaussian", "--objective", "iwae", "--train-samples", "2"]
    if kind == "two":
        np.save(path, random.random((2, 4)))
        return path, []
    np.save(path, np.full((20, 4), 0.25))  # constant: nothing to scale, no spread of codes
    return path, ["--likelihood", "gaussian"]


@pytest.mark.parametrize("kind", ["color", "counts", "wide", "two", "constant"])
def test_any_data(tmp_path, kind):
    path, more = data_of(kind, tmp_path)
    assert run("train", "--data", path, *QUICK, *more, "--out", tmp_path / "run") == 0
    p = write_page(tmp_path / "run")
    assert_whole(p)
    assert any("how many lie nearby" in caption for caption in p.captions)  # no labels: colored by density
    assert run("report", tmp_path / "run", "--data", tmp_path / "none.npy") == 2


def test_measured_is_what_the_model_says(digits):
    config, _, vae = runs.load_run(digits, torch.device("cpu"))
    dataset = load_data(config)
    seen = examine.measure(vae, dataset, 300)
    x = dataset.test
    assert len(seen.log_px) == len(seen.elbo) == len(x) == len(seen.mu)
    log_px, ess = vae.log_likelihood(x, 300, return_ess=True)
    with torch.no_grad():
        elbo = torch.stack([vae.elbo(x).elbo for _ in range(300)]).mean(0)
    # Each is a mean over 359 samples of x of estimates whose own noise is below a nat.
    assert seen.log_px.mean() == pytest.approx(float(log_px.mean()), abs=0.05)
    assert seen.elbo.mean() == pytest.approx(float(elbo.mean()), abs=0.05)
    assert seen.ess.mean() == pytest.approx(float(ess.mean()), rel=0.1)
    assert (seen.log_px >= seen.elbo).all() and (seen.ess >= 1).all() and (seen.ess <= 300).all()
    torch.testing.assert_close(seen.kl, vae.elbo(x).kl, check_dtype=False)
    torch.testing.assert_close(seen.mu, vae.encode(x)[0].detach())


def test_labels_are_those_of_the_samples():
    """Each test image is looked up among scikit-learn's."""
    dataset = load_data(Config())
    labels, names = examine.labels_of_test(dataset, len(dataset.test))
    assert names == [str(k) for k in range(10)]
    bunch = datasets.load_digits()
    where = {image.tobytes(): int(target) for image, target in zip(bunch.images, bunch.target, strict=True)}
    expected = [where[(x[0].double().numpy() * 16).tobytes()] for x in dataset.test]
    assert labels.tolist() == expected


def test_labels_of_files(tmp_path):
    x, y = np.zeros((6, 4, 4), np.uint8), np.array([0, 1, 2, 2, 1, 0])
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y)
    np.savez(tmp_path / "none.npz", x_train=x, y_train=np.linspace(0, 1, 6))
    np.savez(tmp_path / "short.npz", x_train=x, labels=y[:5])
    assert examine.labels(str(tmp_path / "a.npz"), 6) == y.tolist()
    assert examine.labels(str(tmp_path / "none.npz"), 6) is None  # fractions are no classes
    assert examine.labels(str(tmp_path / "short.npz"), 6) is None
    for name, array in (("train-images-idx3-ubyte.gz", x), ("train-labels-idx1-ubyte.gz", y.astype(np.uint8))):
        with gzip.open(tmp_path / name, "wb") as file:
            file.write(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())
    images = tmp_path / "train-images-idx3-ubyte.gz"
    assert examine.labels(str(images), 6) == y.tolist()
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    assert examine.labels(str(images), 6) is None
    for k, kind in enumerate(["$cat", "dog", "dog"]):
        (tmp_path / "folder" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[0]).save(tmp_path / "folder" / kind / f"{k}.png")
    assert examine.labels(str(tmp_path / "folder"), 3) == ["$cat", "dog", "dog"]
    np.savez(tmp_path / "objects.npz", x=x, y=y.astype(object))
    np.save(tmp_path / "array.npy", x)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    assert examine.labels(str(tmp_path / "objects.npz"), 6) is examine.labels(str(tmp_path / "array.npz"), 6) is None
    # A name that matplotlib would take for mathematics, and not understand, is drawn as it is.
    points = np.random.default_rng(0).normal(size=(3, 2))
    assert b"<svg" in figures.codes(points, np.array([0, 1, 1]), ["$cat_{$", "dog"], ("a", "b"))


def test_other_data_is_measured_whole(tmp_path, digits):
    np.save(tmp_path / "other.npy", np.random.default_rng(0).random((30, 8, 8), np.float32))
    assert (
        run("report", digits, "--data", tmp_path / "other.npy", "--num-samples", "5", "--out", tmp_path / "page.html")
        == 0
    )
    page = (tmp_path / "page.html").read_text()
    assert "A variational autoencoder of digits" in page and "Means over 30 samples of " in page
    assert "measured on " in page and "0 to train on" not in page


@pytest.mark.parametrize("arguments", [
    [], ["--objective", "iwae", "--gradient", "dreg", "--train-samples", "3", "--lr", "3e-5"], ["--hidden-dims", ""],
    ["--model", "conv", "--channels", "4,8", "--beta", "0.5", "--seed", "-3"], ["--data", "my 'data'.npy", "--batch-size", "7"],
])  # fmt: skip
def test_the_command_makes_the_same_run(arguments):
    def config(words):
        given = vars(options.parser().parse_args(words))
        given = {name: given[name] for name in Config.__dataclass_fields__ if name in given}
        return settings.make_config(given, {})

    wanted = config(["train", "--epochs", "2", *arguments])
    words = shlex.split(settings.command(wanted))
    assert words[0] == "vaefast" and config(words[1:]) == wanted


def test_tiles():
    """Where each pixel of each sample is, on one scale, and nothing between them."""
    x = torch.linspace(-1, 1, 3 * 4).reshape(3, 1, 2, 2)
    page = np.asarray(Image.open(io.BytesIO(pictures.tiles(x, 2, (-1, 1)))))
    factor = page.shape[0] // 5  # two rows of 2 pixels, one pixel between them
    small = page[factor // 2 :: factor, factor // 2 :: factor]
    assert small.shape == (5, 5, 4)
    expected = np.round((x[:, 0].double().numpy() + 1) / 2 * 255)
    for k, (top, left) in enumerate(((0, 0), (0, 3), (3, 0))):
        cell = small[top : top + 2, left : left + 2]
        assert np.abs(cell[..., 0] - expected[k]).max() <= 1 and (cell[..., 3] == 255).all()
    assert (small[2] == 0).all() and (small[:, 2] == 0).all() and (small[3:, 3:] == 0).all()
    color = np.asarray(
        Image.open(io.BytesIO(pictures.tiles(torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1), 1, (0, 1))))
    )
    assert color[0, 0].tolist() == [0, 128, 255, 255]


def test_bars_mark_what_is_not_active():
    for marked, hatched in (([True, True], False), ([True, False], True)):
        svg = figures.bars([0.5, 0.01], marked, ["z0", "z1"])
        assert (b"<pattern" in svg) == hatched
    rest = [torch.zeros(2)] * 5  # log p(x) and what else a sample has
    seen = examine.Measured(*rest, mu=torch.tensor([[0.0, 1.0], [0.01, -1.0]]), logvar=torch.zeros(2, 2))
    made = sections.dimensions(seen)
    assert "1 of 2 are active" in made


def test_bad_input_is_one_line_and_touches_nothing(tmp_path, digits, digits_page, capsys):
    config = json.loads((digits / "config.json").read_text())

    def copy(name, **changes):
        (tmp_path / name).mkdir()
        for file in digits.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        (tmp_path / name / "config.json").write_text(json.dumps({**config, **changes}))
        return tmp_path / name

    gone = copy("gone", data="/nowhere/data.npy")
    diverged = copy("diverged")
    _, _, vae = runs.load_run(diverged, torch.device("cpu"))
    torch.nn.init.constant_(next(vae.decoder.parameters()), float("nan"))
    runs.save_file(vae.state_dict(), diverged / "model.safetensors")
    np.save(tmp_path / "other.npy", np.random.default_rng(0).random((9, 4)))
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    cases = {
        (tmp_path / "nothing",): "not a run of vaefast train",
        (gone,): "/nowhere/data.npy: no such file",
        (diverged,): "not finite",
        (digits, "--data", tmp_path / "other.npy"): "samples have shape (4,), but the run's model makes (1, 8, 8)",
        (digits, "--out", tmp_path / "no" / "page.html"): "there is no folder",
        (digits, "--device", "nonsense"): "--device nonsense",
    }
    capsys.readouterr()
    for arguments, message in cases.items():
        assert run("report", *arguments) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1 and error.startswith("vaefast report: "), error
    for arguments in (("--out", digits / "config.json"), ("--num-samples", "0")):
        with pytest.raises(SystemExit) as exit_:
            run("report", digits, *arguments)
        assert exit_.value.code == 2
    assert before == {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    assert (digits / "report.html").read_text() == digits_page.source
