"""Training as a person does it: files of settings, interruptions, progress, scalars."""

import io
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.support.command import FILES, QUICK, run

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")
pytest.importorskip("safetensors")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def test_settings_of_a_file(tmp_path, monkeypatch):
    """A run's config.json makes the same run; the command line overrides; paths in a file are relative to it."""
    monkeypatch.chdir(tmp_path)
    assert run("train", *QUICK, "--lr", "0.01", "--out", "first") == 0
    assert run("train", "--config", "first/config.json", "--out", "same") == 0
    assert config_of(tmp_path / "first") == config_of(tmp_path / "same")
    assert (tmp_path / "first/model.safetensors").read_bytes() == (tmp_path / "same/model.safetensors").read_bytes()
    assert run("train", "--config", "first/config.json", "--epochs", "1", "--hidden-dims", "8,4", "--out", "other") == 0
    expected = {**config_of(tmp_path / "first"), "epochs": 1, "hidden_dims": [8, 4]}
    assert config_of(tmp_path / "other") == expected
    (tmp_path / "settings").mkdir()
    np.save("settings/x.npy", np.random.default_rng(0).random((30, 6)))
    iwae = {"data": "x.npy", "objective": "iwae", "train-samples": 3, "gradient": "dreg", "epochs": 1, "hidden_dims": [8],
            "lr": 1, "num_samples": 5}  # fmt: skip
    (tmp_path / "settings/iwae.json").write_text(json.dumps(iwae))
    assert run("train", "--config", "settings/iwae.json", "--out", "iwae") == 0
    made = config_of(tmp_path / "iwae")
    assert made["data"] == str(tmp_path / "settings/x.npy") and (made["train_samples"], made["lr"]) == (3, 1.0)
    # Another objective than the file's does not take the file's options of its own.
    assert run("train", "--config", "settings/iwae.json", "--objective", "elbo", "--out", "elbo") == 0
    made = config_of(tmp_path / "elbo")
    assert (made["objective"], made["gradient"], made["train_samples"]) == ("elbo", "standard", 8)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="no tomllib")
def test_settings_of_a_toml_file(tmp_path):
    (tmp_path / "a.toml").write_text('likelihood = "gaussian"\nlatent-dim = 2\nhidden-dims = [16]\nepochs = 9\n')
    assert run("train", "--config", tmp_path / "a.toml", "--epochs", "1", "--out", tmp_path / "run") == 0
    made = config_of(tmp_path / "run")
    assert (made["likelihood"], made["latent_dim"], made["hidden_dims"], made["epochs"]) == ("gaussian", 2, [16], 1)


@pytest.mark.parametrize("name, content, message", [
    ("a.json", '{"epoch": 3}', "'epoch' is not a setting; did you mean epochs?"),
    ("a.json", '{"zzz": 3}', "'zzz' is not a setting; there are data, likelihood"),
    ("a.json", '{"epochs": "3"}', "epochs must be a positive whole number, got '3'"),
    ("a.json", '{"epochs": 0}', "epochs must be a positive whole number, got 0"),
    ("a.json", '{"epochs": 1.5}', "epochs must be a positive whole number, got 1.5"),
    ("a.json", '{"lr": true}', "lr must be a positive number, got True"),
    ("a.json", '{"seed": null}', "seed must be a whole number of 64 bits, got None"),
    ("a.json", '{"model": "cnn"}', "model must be one of mlp, conv, got 'cnn'"),
    ("a.json", '{"hidden_dims": [4, "x"]}', "hidden_dims must be positive whole numbers, with commas between"),
    ("a.json", '{"beta": -1}', "beta must be a number from 0 on, got -1"),
    ("a.json", '{"gradient": "dreg"}', "--gradient is for --objective iwae"),
    ("a.json", '{"train_samples": 4}', "--train-samples is for --objective iwae"),
    ("a.json", '[1]', "expected names and values, got a list"),
    ("a.json", '{', "is not json"),
    ("a.json", '\udcff', "is not json"),
    ("a.toml", 'epochs = ', "is not toml"),
    ("none.json", None, "no such file"),
])  # fmt: skip
def test_bad_settings_are_one_line(tmp_path, capsys, name, content, message):
    if name.endswith("toml") and sys.version_info < (3, 11):
        message = "needs Python 3.11"
    if content is not None:
        (tmp_path / name).write_text(content, errors="surrogateescape")
    assert run("train", "--config", tmp_path / name, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1, error
    assert not (tmp_path / "run").exists()


def test_resume_takes_no_settings(tmp_path, digits, capsys):
    (tmp_path / "a.json").write_text('{"epochs": 90}')
    assert run("train", "--resume", digits, "--config", tmp_path / "a.json") == 2
    assert "only --epochs and --device go with it" in capsys.readouterr().err


def test_a_finished_run_says_so_before_anything_else(digits, capsys):
    assert run("train", "--resume", digits) == 2
    error = capsys.readouterr().err
    assert (
        error == f"vaefast train: {digits}: has finished its 20 epochs; it goes on with a larger number: --epochs 40\n"
    )


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_interrupted_and_resumed(tmp_path, capsys):
    """Ctrl-C says in one line what is saved and how to go on; what goes on has the same curve."""
    out = tmp_path / "a run"
    command = [sys.executable, "-m", "vaefast", "train", *QUICK, "--epochs", "5000", "--out", str(out)]

    def heard() -> None:  # what runs in the background may ignore it
        signal.signal(signal.SIGINT, signal.default_int_handler)

    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.safetensors").exists() or len(rows_of(out)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in error
    with __import__("safetensors").safe_open(out / "checkpoint.safetensors", "pt") as file:
        saved = int(file.metadata()["epoch"])
    last = error.splitlines()[-1]
    assert last == (
        f"vaefast train: interrupted: {saved} of 5000 epochs are saved in '{out}'; "
        f"go on with: vaefast train --resume '{out}'"
    )
    assert not list(out.glob("*.partial"))
    assert run("evaluate", out, "--num-samples", "5") == 0
    goal = str(saved + 1)
    assert run("train", "--resume", out, "--epochs", goal) == 0
    assert run("train", *QUICK, "--epochs", goal, "--out", tmp_path / "whole") == 0
    assert rows_of(out) == rows_of(tmp_path / "whole")


@pytest.mark.parametrize("there", [False, True])
def test_interrupted_before_anything_was_saved(tmp_path, capsys, monkeypatch, there):
    """Nothing stays, and the same command can be given again."""
    from vaefast.cli import progress

    out = tmp_path / "run"
    if there:
        out.mkdir()

    def interrupt(self, epoch, samples):
        assert (out / "config.json").exists()
        if samples:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(progress.Bar, "batch", interrupt)
        assert run("train", *QUICK, "--out", out) == 130
    assert capsys.readouterr().err.splitlines()[-1] == (
        "vaefast train: interrupted before the first epoch was done; nothing was written"
    )
    assert out.exists() == there and not list(out.glob("*"))
    assert run("train", *QUICK, "--out", out) == 0


def test_interrupted_after_the_last_epoch(tmp_path, capsys, monkeypatch):
    from vaefast.cli import training

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "draw", interrupt)
    assert run("train", *QUICK, "--out", tmp_path / "run") == 130
    assert "only pictures are missing from the run in" in capsys.readouterr().err
    assert run("evaluate", tmp_path / "run", "--num-samples", "5") == 0


def test_training_that_diverges_ends(tmp_path, capsys, monkeypatch):
    assert run("train", *QUICK, "--lr", "1e30", "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "epoch 1: the bound became" in error and "a smaller --lr or smaller values may help" in error
    assert not (tmp_path / "run").exists()
    from vaefast.cli import training

    forward, seen = training.Objective.forward, []

    def diverge(self, x, noise):
        seen.append(len(x))
        return forward(self, x, noise) * (float("nan") if sum(seen) > 2 * 1438 else 1.0)

    monkeypatch.setattr(training.Objective, "forward", diverge)
    assert run("train", *QUICK, "--epochs", "4", "--out", tmp_path / "run") == 2
    assert f"epoch 3: the bound became nan; {tmp_path / 'run'} holds the 2 before it" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "run")) == 2 and run("evaluate", tmp_path / "run", "--num-samples", "5") == 0


def test_too_little_memory_is_one_line(tmp_path, capsys, monkeypatch):
    from vaefast.cli import training

    def fail(self, x, noise):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. And more.")

    monkeypatch.setattr(training.Objective, "forward", fail)
    assert run("train", *QUICK, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "vaefast train: CUDA out of memory; train with a smaller --batch-size"


def test_progress_moves_within_an_epoch(monkeypatch):
    """Two epochs of three, 400 samples each: what stands beside the bar, by a clock of ours."""
    from rich.console import Console

    from vaefast.cli import progress

    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    screen = io.StringIO()
    bar = progress.Bar(Console(file=screen, force_terminal=True, width=80), epochs=3, samples=400)

    def shown():
        (task,) = bar.bar.tasks
        return task.fields["epoch"], round(task.completed, 3), task.fields["state"]

    bar.batch(1, 0)
    now[0] += 0.05
    bar.batch(1, 4)  # sooner than an eye can see
    assert shown() == ("1/3", 0, "")
    now[0] += 0.95
    bar.batch(1, 100)
    assert shown() == ("1/3", 0.25, "100/s  0:00:11")  # a second for a quarter, 11 quarters to go
    now[0] += 3
    bar.batch(1, 400)
    assert shown() == ("1/3 100%", 1, "testing")
    now[0] += 1
    bar.finished({"epoch": 1, "test_elbo": -24.834, "test_log_px": -24.56})
    assert shown() == ("1/3 100%", 1, "test ELBO -24.83  log p(x) -24.56  100/s  0:00:10")
    bar.batch(2, 0)
    now[0] += 2.5
    bar.batch(2, 200)
    assert shown() == ("2/3  50%", 1.5, "test ELBO -24.83  log p(x) -24.56  80/s  0:00:08")
    with bar:
        now[0] += 2.5
        bar.batch(2, 400)
        bar.finished({"epoch": 2, "test_elbo": -12345.67, "test_log_px": -12340.12})
    last = screen.getvalue().split("\r")[-1]
    assert "epoch 2/3 100%" in last and "0:00:05" in last and "\u2026" not in last  # all of it, in 80 columns


def test_scalars_for_tensorboard(tmp_path):
    """Every number of every epoch, once, also of a run that was resumed."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    assert run("train", *QUICK, "--tensorboard", "--out", out) == 0
    assert run("train", "--resume", out, "--epochs", "3", "--tensorboard") == 0
    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    for tag, name in (("test/elbo", "test_elbo"), ("test/log_px", "test_log_px"), ("train/bound", "train_bound")):
        got = [(e.step, e.value) for e in events.Scalars(tag)]
        assert got == [(row["epoch"], pytest.approx(row[name], rel=1e-6)) for row in rows]
    assert {f.name for f in out.iterdir()} == FILES | {"tensorboard"}


def test_tensorboard_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run("train", *QUICK, "--tensorboard", "--out", tmp_path / "run") == 2
    assert "--tensorboard needs the package tensorboard: pip install tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_bound_and_log_px_are_of_the_same_samples():
    """With one sample they are equal, in the report as in what train and evaluate write."""
    from vaefast import mlp_vae
    from vaefast.cli import training
    from vaefast.cli.report import measure as examine
    from vaefast.data import Dataset

    x, vae = torch.rand(30, 1, 4, 4), mlp_vae((1, 4, 4), 2, (8,))
    result = training.evaluate(vae, x, 1, torch.device("cpu"))
    assert result["test_log_px"] == result["test_elbo"]
    assert result["test_elbo"] == pytest.approx(result["test_log_likelihood"] - result["test_kl"], rel=1e-6)
    measured = examine.measure(vae, Dataset("x", x[:0], x), 1)
    assert torch.equal(measured.log_px, measured.elbo) and (measured.ess == 1).all()
    torch.testing.assert_close(measured.elbo, measured.log_likelihood - measured.kl)
