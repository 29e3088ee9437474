"""Several processes, several machines' way: the loss curve of one process, and runs that are interrupted and go on."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

import vaefast
from tests.support.native import ROOT
from vaefast import cli

pytest.importorskip("safetensors")
pytest.importorskip("sklearn")
SMALL = [
    "--hidden-dims",
    "64",
    "--latent-dim",
    "8",
    "--num-samples",
    "20",
    "--batch-size",
    "63",
]  # odd: rows do not split evenly
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(processes, *arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT)


def curve(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def assert_same_curve(got, expected, rel):
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        assert g == pytest.approx(e, rel=rel)


@pytest.mark.parametrize("options", [
    ["--epochs", "6"],
    pytest.param(["--epochs", "2", "--likelihood", "gaussian"], marks=pytest.mark.slow),
    pytest.param(["--epochs", "2", "--objective", "iwae", "--gradient", "dreg", "--train-samples", "3"], marks=pytest.mark.slow),
])  # fmt: skip
def test_two_processes_have_the_curve_of_one(tmp_path, options):
    for processes in (1, 2):
        out = tmp_path / str(processes)
        result = torchrun(processes, "-m", "vaefast", "train", *SMALL, *options, "--out", out)
        assert result.returncode == 0, result.stderr[-4000:]
    assert {f.name for f in (tmp_path / "1").iterdir()} == {f.name for f in (tmp_path / "2").iterdir()}
    assert_same_curve(curve(tmp_path / "2"), curve(tmp_path / "1"), rel=1e-5)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path):
    """Killed without warning in its third epoch or later, and resumed by two processes."""
    out, expected = tmp_path / "run", tmp_path / "expected"
    command = [sys.executable, "-m", "vaefast", "train", *SMALL, "--epochs", "500", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.safetensors").exists() or len(curve(out)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    goal = str(len(curve(out)) + 2)
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 99, "test_el')  # what a killed writer may leave
    result = torchrun(2, "-m", "vaefast", "train", "--resume", out, "--epochs", goal)
    assert result.returncode == 0, result.stderr[-4000:]
    result = torchrun(1, "-m", "vaefast", "train", *SMALL, "--epochs", goal, "--out", expected)
    assert result.returncode == 0, result.stderr[-4000:]
    assert_same_curve(curve(out), curve(expected), rel=1e-5)
    assert {f.name for f in out.iterdir()} == {f.name for f in expected.iterdir()}


def test_resume_is_exact(tmp_path, capsys):
    train = ["train", *SMALL, "--out"]
    assert cli.main([*train, str(tmp_path / "parts"), "--epochs", "2"]) == 0
    assert cli.main(["train", "--resume", str(tmp_path / "parts"), "--epochs", "3"]) == 0
    assert cli.main([*train, str(tmp_path / "whole"), "--epochs", "3"]) == 0
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_resume_says_what_it_cannot_do(tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", *SMALL, "--out", str(run), "--epochs", "1"]) == 0
    before = {f.name: f.read_bytes() for f in run.iterdir()}
    wide = tmp_path / "wide"
    for options, message in (
        (["--epochs", "1"], "has finished its 1 epochs; it goes on with a larger number: --epochs 2"),
        (["--lr", "0.1", "--epochs", "2"], "only --epochs and --device go with it"),
        (["--out", str(wide), "--epochs", "2"], "only --epochs and --device go with it"),
    ):
        assert cli.main(["train", "--resume", str(run), *options]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["train", "--resume", str(tmp_path)]) == 2
    assert "not a run of vaefast train" in capsys.readouterr().err
    assert before == {f.name: f.read_bytes() for f in run.iterdir()}
    for content, message in (
        (b"\xff" * 100, "cannot be loaded"),
        ((run / "model.safetensors").read_bytes(), "its tensors are not those of the model"),
        ((run / "checkpoint.safetensors").read_bytes().replace(b'"epoch":"1"', b'"epoch":"x"'), "its epoch is 'x'"),
        (None, "the run has finished no epoch"),
    ):
        if content is None:
            (run / "checkpoint.safetensors").unlink()
        else:
            (run / "checkpoint.safetensors").write_bytes(content)
        assert cli.main(["train", "--resume", str(run), "--epochs", "2"]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("wrapped", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_wrapped_models(wrapped):
    """A model of one's own with ELBOLoss under DistributedDataParallel and fully_shard, two processes; see the worker."""
    result = torchrun(2, ROOT / "tests" / "support" / "distributed_worker.py", wrapped)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("same") == 2


@pytest.mark.parametrize("sizes", [(8, 8, 8, 8), (16, 9, 6, 1)])
def test_gradient_accumulation(sizes):
    """Parts of a batch, each weighted by its share, give the whole batch's gradient; so do sums, divided once."""
    torch.manual_seed(0)
    model, x = nn.Linear(20, 20), torch.rand(32, 20)
    mu, logvar = torch.randn(32, 4), torch.randn(32, 4)

    def gradients(reduction, parts, share):
        model.zero_grad()
        criterion = vaefast.ELBOLoss(reduction=reduction)
        for rows in torch.arange(32).split(parts):
            loss = criterion(model(x[rows]), x[rows], mu[rows], logvar[rows])
            (loss * share(len(rows))).backward()
        return [p.grad.clone() for p in model.parameters()]

    expected = gradients("mean", [32], lambda n: 1.0)
    for reduction, share in (("mean", lambda n: n / 32), ("sum", lambda n: 1 / 32)):
        for g, e in zip(gradients(reduction, list(sizes), share), expected, strict=True):
            torch.testing.assert_close(g, e)
