"""The benchmarks: that their variants compute one number, that a run ends in tables, and that the pages show its results."""

import json

import torch

from benchmarks import __main__ as command
from benchmarks import losses, measure, report, training
from benchmarks.hand_written import __main__ as hand_written


def test_variants_compute_the_same_loss():
    logits, x, mu, logvar = torch.randn(8, 30), torch.rand(8, 30).round(), torch.randn(8, 4), torch.randn(8, 4)
    values = {name: f(logits, x, mu, logvar) for name, f in losses.variants("bernoulli", compiled=False).items()}
    for name, value in values.items():
        expected = values["vaefast"] * (8 if name == "examples" else 1)  # the examples sum over the batch
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=0, msg=name)
    values = {name: f(logits, x, mu, logvar) for name, f in losses.variants("gaussian", compiled=False).items()}
    constant = 30 * 0.9189385332046727  # log(2 pi) / 2 a pixel, which people leave out
    torch.testing.assert_close(values["vaefast"], values["eager"] + constant, rtol=1e-5, atol=0)


def test_a_run_ends_in_tables_and_a_plot(tmp_path):
    options = dict(latents=2, dtype=torch.float32, device="cpu", compiled=False, budget=0.01)
    rows = [measure.loss("bernoulli", batch, 64, **options) for batch in (4, 400)]
    results = {
        "stamp": command.stamp("cpu"),
        "loss": rows,
        "sampling": [measure.sampling(640, "cpu", 0.01)],
        "scaling": [measure.scaling(2**12, 0.01)],
        "linear": [measure.linear(4, 3, 300, "cpu", 0.01)],
        "training": [training.train("mlp", training.mlp, "cpu", False, 0.01)],
    }
    assert rows[0]["operators"]["vaefast"] < rows[0]["operators"]["eager"]
    report.show(results)
    report.plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
    text = report.machine("here", json.loads(json.dumps(results)))
    for row in ("| bernoulli | 4 x 64 + 2 | float32 |", "| 2^12 |", "| 4 x 3 x 300 |", "| mlp | vaefast |"):
        assert row in text


def test_the_page_of_hand_written_losses_shows_the_committed_results():
    results = report.load(report.RESULTS / "hand_written.json")
    shown = hand_written.PAGE.read_text().partition(hand_written.BEGIN)[2].partition(hand_written.END)[0]
    assert shown == hand_written.section(results)
    assert [row["name"] for row in results["rows"]] == list(hand_written.ROWS)


def test_a_row_is_measured():
    row = hand_written.ROWS["vgae_kl"]
    found = hand_written.measured(row._replace(inputs=lambda g: row.inputs(g, N=5)), 0.01)
    assert hand_written.ratio(found) > 0 and hand_written.sizes(row) == "2708 x 16"


def test_the_pages_show_the_committed_results():
    for page, text in report.pages().items():
        shown = page.read_text()
        assert shown[shown.index(report.BEGIN) + len(report.BEGIN) : shown.index(report.END)] == text, page
    for page, text in report.machines().items():
        assert page.read_text() == text, page
    names = {page.stem for page in report.machines()}
    assert {page.stem for page in report.RESULTS.glob("*.md")} == names and len(names) >= 4
    assert all(f"(../benchmarks/results/{name}.md)" in report.PAGE.read_text() for name in names)
