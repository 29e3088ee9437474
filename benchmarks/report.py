"""Results as tables, as a plot and as pages: README.md and docs/speed.md show the newest, benchmarks/results/*.md all."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- speed: python -m benchmarks --readme -->\n", "<!-- end of speed -->\n"
README, PAGE = ROOT / "README.md", ROOT / "docs" / "speed.md"
Results = dict[str, Any]


def ratio(row: dict[str, Any], name: str) -> str:
    times = row["forward_and_backward_us"]
    return f"{times[name]['median'] / times['vaefast']['median']:.1f}" if name in times else ""


def size(row: dict[str, Any]) -> str:
    return f"{row['batch']} x {row['pixels']} + {row['latents']}"


def megabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.0f}"


LOSS_HEADER = [
    *("likelihood", "size", "dtype", "threads", "us", "forward us", "eager", "compile", "examples", "distributions"),
    *("pyro", "GB/s", "% of bandwidth", "floors", "in place", "operators (eager)", "peak MB (in place, eager)"),
]


def loss_cells(row: dict[str, Any]) -> list[str]:
    times, operators, peak = row["forward_and_backward_us"], row["operators"], row["peak_bytes"]
    ours, inplace, eager = (megabytes(peak[name]) for name in ("vaefast", "vaefast, in place", "eager"))
    floors = row["times_the_floor"].values()
    return [
        *(row["likelihood"], size(row), row["dtype"], str(row["threads"])),
        *(f"{times['vaefast']['median']:.0f}", f"{row['forward_us']['vaefast']['median']:.0f}"),
        *(ratio(row, name) for name in ("eager", "compile", "examples", "distributions", "pyro")),
        *(f"{row['gigabytes_per_second']:.1f}", f"{row['percent_of_bandwidth']:.0f}", *(f"{n:.2f}" for n in floors)),
        *(f"{operators['vaefast']} ({operators['eager']})", f"{ours} ({inplace}, {eager})"),
    ]


SAMPLING_HEADER = ["elements", "us", "eager"]


def sampling_cells(row: dict[str, Any]) -> list[str]:
    return [str(row["elements"]), f"{row['forward_and_backward_us']['vaefast']['median']:.0f}", ratio(row, "eager")]


TRAINING_HEADER = ["model, batch 128", "loss", "samples/s", "loss's share of the step"]


def training_cells(row: dict[str, Any]) -> list[list[str]]:
    share = {k: f"{v:.0f} %" for k, v in row["percent_of_step"].items()}
    return [[row["model"], name, str(rate), share.get(name, "")] for name, rate in row["samples_per_second"].items()]


def scaling_header(rows: list[dict[str, Any]]) -> list[str]:
    threads = sorted({row["threads"] for row in rows})
    return ["pixels", *(f"ns per pixel, {n} thread{'s' * (n > 1)}" for n in threads), "speed-up"]


def scaling_cells(rows: list[dict[str, Any]]) -> list[list[str]]:
    cost: dict[int, list[float]] = {}
    for row in sorted(rows, key=lambda row: row["threads"]):
        cost.setdefault(row["elements"], []).append(row["nanoseconds_per_element"])
    return [
        [f"2^{n.bit_length() - 1}", *(f"{c:.3f}" for c in each), f"{each[0] / each[-1]:.2f}"]
        for n, each in cost.items()
    ]


LINEAR_HEADER = ["batch x hidden x outputs", "ms in blocks (vaefast, eager)", "peak MB in blocks (vaefast, eager)"]


def linear_cells(row: dict[str, Any]) -> list[str]:
    names = ("in blocks", "vaefast", "eager")
    ms = [f"{row['forward_and_backward_us'][name]['median'] / 1e3:.0f}" for name in names]
    peak = [megabytes(row["peak_bytes"][name]) for name in names]
    shape = f"{row['batch']} x {row['hidden']} x {row['outputs']}"
    return [shape, *(f"{first} ({second}, {third})" for first, second, third in (ms, peak))]


def tables(results: Results) -> list[tuple[list[str], list[list[str]]]]:
    return [
        (LOSS_HEADER, [loss_cells(row) for row in results["loss"]]),
        (SAMPLING_HEADER, [sampling_cells(row) for row in results["sampling"]]),
        (scaling_header(results["scaling"]), scaling_cells(results["scaling"])),
        (LINEAR_HEADER, [linear_cells(row) for row in results["linear"]]),
        (TRAINING_HEADER, [cells for row in results["training"] for cells in training_cells(row)]),
    ]


def show(results: Results) -> None:
    console = Console(width=190)
    for header, rows in tables(results):
        if rows:
            table = Table(*header)
            for cells in rows:
                table.add_row(*cells)
            console.print(table)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def plot(results: Results, path: Path) -> None:
    """Throughput against size, with the bandwidth that the same run measured as the limit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [r for r in results["loss"] if r["likelihood"] == "bernoulli" and r["dtype"] == "float32"]
    most = max(r["threads"] for r in rows)
    rows = [r for r in rows if r["threads"] == most]
    elements = [r["batch"] * r["pixels"] for r in rows]

    def rate(row: dict[str, Any], name: str) -> float:
        counted = 4 * (3 * row["batch"] * row["pixels"] + 4 * row["batch"] * row["latents"])
        return counted / row["forward_and_backward_us"][name]["median"] / 1e3

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name in ("vaefast", "compile", "eager", "distributions", "examples"):
        if all(name in r["forward_and_backward_us"] for r in rows):
            axes.plot(
                elements, [rate(r, name) for r in rows], marker="o", label=name, lw=2.5 if name == "vaefast" else 1.2
            )
    limit = [
        3 * 4 * n / r["forward_and_backward_us"]["floor"]["median"] / 1e3 for n, r in zip(elements, rows, strict=True)
    ]
    axes.plot(elements, limit, "k--", lw=1, label="limit: torch.add(a, b, out=c)")
    axes.set(xscale="log", yscale="log", xlabel="pixels in the batch", ylabel="GB/s of counted bytes")
    axes.set_title(
        f"ELBO, forward + backward, float32, {results['stamp']['gpu'] or results['stamp']['cpu']}", fontsize=10
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def where(stamp: dict[str, Any]) -> str:
    machine = stamp["gpu"] or f"{stamp['cpu']}, {stamp['cpu_isa']}"
    return f"{machine}, torch {stamp['torch']}, {stamp['date']}, commit {stamp['commit']}"


LEGEND = """
All times are medians of interleaved runs, and every call is timed warm. The first table is the forward and backward
pass of the ELBO loss:

- "us" is vaefast's time in microseconds. "forward us" is its forward pass alone.
- "eager" to "pyro" say how many times as long the others take. "eager" is the best that people write, from logits.
  "compile" is that under torch.compile. "examples" is the loss of pytorch/examples, which starts at the decoder's
  sigmoid.
- "GB/s" counts one read of every operand and one write of every gradient.
- A floor is what `torch.add(a, b, out=c)` of the same size takes in the same run. "in place" is the same for
  `inplace=True`.
- Peak memory is what a call holds beyond its inputs.
"""


INTRODUCTIONS = (
    "Forward and backward pass of the loss:",
    "Reparameterized samples, forward and backward:",
    "The cost of a pixel, from what fits in a cache to what does not:",
    "A linear layer with its Bernoulli likelihood, in blocks (`linear_bernoulli_log_likelihood`) and whole:",
    "Whole training steps (encoder, decoder, Adam), in samples per second:",
)


def all_tables(results: Results) -> str:
    """Every table, each after a sentence that says what it is."""
    shown = zip(INTRODUCTIONS, tables(results), strict=True)
    return "\n".join(f"{what}\n\n{markdown(header, rows)}" for what, (header, rows) in shown if rows)


def machine(name: str, results: Results) -> str:
    """The page of one machine, which lies beside the JSON."""
    return f"""\
# {name}

{where(results["stamp"])} ([all figures]({name}.json)). Written by `python -m benchmarks --readme`.
[Speed](../../docs/speed.md#measurements) explains the columns.

{all_tables(results)}"""


def times_as_fast(results: Results) -> str:
    ratios = [float(ratio(row, "eager")) for row in results["loss"]]
    return f"{min(ratios):.1f} to {max(ratios):.0f}"


def measured(every: dict[str, Results]) -> str:
    """What docs/speed.md shows: the newest machine in full, and where the others are."""
    name, results = next(iter(every.items()))
    rows = [
        [
            f"[{n}](../benchmarks/results/{n}.md)",
            r["stamp"]["cpu"],
            r["stamp"]["cpu_isa"],
            r["stamp"]["date"],
            times_as_fast(r),
        ]
        for n, r in every.items()
    ]
    header = ["machine", "processor", "instruction set", "date", "times as fast as by hand"]
    return f"""{LEGEND}
The tables are those of the newest run, `{name}`: {where(results["stamp"])}
([all figures](../benchmarks/results/{name}.json)).

![GB/s of vaefast and of the others against the number of pixels, with the machine's bandwidth](_generated/speed.png)

{all_tables(results)}
Every machine has such tables. The last column is the loss alone, forward and backward:

{markdown(header, rows)}"""


STEPS = {
    "examples": "pytorch/examples",
    "eager": "by hand, from logits",
    "vaefast": "vaefast",
    "eager, compiled": "by hand, compiled",
    "vaefast, compiled": "vaefast, compiled",
}


def short(results: Results) -> str:
    """What the README shows: whole training steps, and how the loss alone compares."""
    rows = [[row["model"], *(str(row["samples_per_second"].get(n, "")) for n in STEPS)] for row in results["training"]]

    def share(name: str) -> str:
        shares = [row["percent_of_step"][name] for row in results["training"]]
        return f"{min(shares):.0f} to {max(shares):.0f} %"

    return f"""
{where(results["stamp"])}.
Samples per second of whole training steps (encoder, decoder, loss, backward pass, Adam), with each loss:

{markdown(["model, batch 128", *STEPS.values()], rows)}
A loss that is written by hand, from logits, is {share("eager")} of such a step. The loss of pytorch/examples is
{share("examples")}. The loss alone, forward and backward, is {times_as_fast(results)} times as fast with vaefast
as by hand.
"""


def rewrite(text: str, begin: str, end: str, page: Path) -> None:
    """What stands between two markers of a page."""
    whole = page.read_text()
    first, last = whole.index(begin) + len(begin), whole.index(end)
    page.write_text(whole[:first] + text + whole[last:])


def load(path: Path) -> Results:
    return json.loads(path.read_text())


def committed() -> dict[str, Results]:
    """The results of every machine, by the name of their file, the newest first."""
    every = {path.stem: load(path) for path in sorted(RESULTS.glob("*.json"))}
    loss = {name: results for name, results in every.items() if "loss" in results}
    return dict(sorted(loss.items(), key=lambda item: item[1]["stamp"]["date"], reverse=True))


def pages() -> dict[Path, str]:
    """What README.md and docs/speed.md show between the markers."""
    every = committed()
    return {README: short(next(iter(every.values()))), PAGE: measured(every)}


def machines() -> dict[Path, str]:
    """The page of every machine, whole."""
    return {RESULTS / f"{name}.md": machine(name, results) for name, results in committed().items()}


def write_pages() -> None:
    for page, text in pages().items():
        rewrite(text, BEGIN, END, page)
    for page, text in machines().items():
        page.write_text(text)
