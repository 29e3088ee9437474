"""The command line end to end: its files, its data formats, and one line for every bad input."""

import gzip
import json
import struct

import numpy as np
import pytest
import torch

from tests.support.command import FILES, QUICK, images, run, save_idx
from vaefast import data

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")
pytest.importorskip("safetensors")


def test_train_writes_every_file(digits):
    assert {f.name for f in digits.iterdir()} == FILES
    metrics = [json.loads(line) for line in (digits / "metrics.jsonl").read_text().splitlines()]
    assert [m["epoch"] for m in metrics] == list(range(1, 21))
    assert metrics[-1]["test_elbo"] > metrics[0]["test_elbo"] + 3
    assert all(m["test_log_px"] > m["test_elbo"] for m in metrics)
    for name in ("samples.png", "reconstructions.png", "curves.png"):
        with Image.open(digits / name) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert pixels.shape[0] > 200 and pixels.std() > 20


def test_evaluate(digits, capsys):
    assert run("evaluate", digits, "--num-samples", "500", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["test_elbo"] > result["first_epoch_test_elbo"] + 3
    assert 0 < result["test_gap"] < 3
    assert result["test_gap"] == pytest.approx(result["test_log_px"] - result["test_elbo"])
    assert run("evaluate", digits, "--num-samples", "50") == 0
    text = capsys.readouterr().out
    assert "test ELBO" in text and "test log p(x), 50 samples" in text and "gap" in text


def test_same_seed_same_run(tmp_path, capsys):
    curves = []
    for name in "ab":
        assert run("train", *QUICK, "--seed", "7", "--out", tmp_path / name) == 0
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        curves.append([{k: v for k, v in row.items() if k != "seconds"} for row in rows])
    assert curves[0] == curves[1]


def test_data_formats(tmp_path):
    np.save(tmp_path / "gray.npy", images(40, 8, 8))
    np.save(tmp_path / "color.npy", images(40, 8, 8, 3))
    np.savez(tmp_path / "floats.npz", other=np.zeros(3), train=np.random.default_rng(0).random((30, 12)))
    save_idx(tmp_path / "idx", images(40, 8, 8))
    save_idx(tmp_path / "idx.gz", images(40, 8, 8))
    folder = tmp_path / "folder"
    folder.mkdir()
    for k, picture in enumerate(images(12, 8, 8, 3)):
        Image.fromarray(picture).save(folder / f"{k}.png")
    sources = {
        "gray.npy": (1, 8, 8),
        "color.npy": (3, 8, 8),
        "floats.npz": (12,),
        "idx": (1, 8, 8),
        "idx.gz": (1, 8, 8),
        "folder": (3, 8, 8),
    }
    for name, shape in sources.items():
        out = tmp_path / f"run-{name}"
        assert run("train", "--data", tmp_path / name, *QUICK, "--out", out) == 0
        assert tuple(json.loads((out / "config.json").read_text())["sample_shape"]) == shape
        assert {f.name for f in out.iterdir()} == FILES
        assert run("evaluate", out, "--num-samples", "5") == 0


@pytest.mark.parametrize("options", [
    ["--likelihood", "gaussian"], ["--likelihood", "bernoulli_probs", "--beta", "0"], ["--model", "conv", "--channels", "4,8"],
    ["--likelihood", "laplace"], ["--likelihood", "continuous_bernoulli"], ["--likelihood", "discretized_logistic"],
    ["--model", "conv", "--channels", "4,8", "--likelihood", "discretized_logistic", "--objective", "iwae"],
    *(["--objective", "iwae", "--train-samples", "3", "--gradient", g] for g in ("standard", "stl", "dreg")),
    ["--objective", "iwae", "--likelihood", "gaussian"],
])  # fmt: skip
def test_options(tmp_path, options):
    assert run("train", *QUICK, *options, "--out", tmp_path / "run") == 0
    assert run("evaluate", tmp_path / "run", "--num-samples", "5") == 0


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial", "zero_inflated_negative_binomial"])
def test_counts(tmp_path, capsys, likelihood):
    np.save(tmp_path / "counts.npy", np.random.default_rng(0).poisson(3.0, (60, 12)))
    out = tmp_path / "run"
    assert run("train", "--data", tmp_path / "counts.npy", "--likelihood", likelihood, *QUICK, "--out", out) == 0
    assert run("evaluate", out, "--num-samples", "5") == 0
    assert run("train", "--likelihood", likelihood, *QUICK, "--out", tmp_path / "no") == 2  # digits are no counts
    assert "digits: a likelihood of counts needs whole numbers" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("options, message", [
    (["--objective", "iwae", "--beta", "2"], "--beta is for --objective elbo"),
    (["--gradient", "dreg"], "--gradient is for --objective iwae"),
    (["--train-samples", "4"], "--train-samples is for --objective iwae"),
])  # fmt: skip
def test_options_that_would_do_nothing(tmp_path, capsys, options, message):
    assert run("train", *QUICK, *options, "--out", tmp_path / "run") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_run_of_an_older_version(tmp_path):
    assert run("train", *QUICK, "--out", tmp_path / "run") == 0
    config = tmp_path / "run" / "config.json"
    record = json.loads(config.read_text())
    config.write_text(
        json.dumps({k: v for k, v in record.items() if k not in ("objective", "train_samples", "gradient")})
    )
    assert run("evaluate", tmp_path / "run", "--num-samples", "5") == 0


def test_evaluate_looks_at_other_data_too(tmp_path, capsys):
    np.save(tmp_path / "counts.npy", np.random.default_rng(0).poisson(3.0, (60, 12)))
    np.save(tmp_path / "fractions.npy", np.random.default_rng(0).random((60, 12)))
    out = tmp_path / "run"
    assert run("train", "--data", tmp_path / "counts.npy", "--likelihood", "poisson", *QUICK, "--out", out) == 0
    assert run("evaluate", out, "--data", tmp_path / "fractions.npy") == 2
    assert "a likelihood of counts needs whole numbers" in capsys.readouterr().err


def test_evaluate_looks_at_all_of_other_data(tmp_path, digits, capsys):
    """Its mean is that of its halves, each looked at alone, but for the noise; and no epoch of the run is about it."""
    x = np.random.default_rng(0).random((40, 8, 8), np.float32)
    x[20:] *= 0.1
    log_px = []
    for part in (x, x[:20], x[20:]):
        np.save(tmp_path / "x.npy", part)
        capsys.readouterr()
        assert run("evaluate", digits, "--data", tmp_path / "x.npy", "--num-samples", "200", "--json") == 0
        log_px.append(json.loads(capsys.readouterr().out))
    whole, *halves = (each["test_log_likelihood"] for each in log_px)
    assert whole == pytest.approx(sum(halves) / 2, rel=0.02) and abs(halves[0] - halves[1]) > 5
    assert "first_epoch_test_elbo" not in log_px[0]


def test_info(capsys):
    assert run("info", "--json") == 0
    info = json.loads(capsys.readouterr().out)
    assert info["torch"] == torch.__version__ and info["cpu_isa"] in info["cpu_isas"] and info["threads"] >= 1
    assert run("info") == 0
    assert "in use: " + info["cpu_isa"] in capsys.readouterr().out


def test_bad_input_is_one_line_and_touches_nothing(tmp_path, digits, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "text.npy").write_text("not an array")
    np.save(bad / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(bad / "one.npy", np.zeros((1, 4)))
    np.save(bad / "nan.npy", np.full((9, 4), np.nan))
    np.save(bad / "wide.npy", np.full((9, 4), 7.0))
    np.save(bad / "huge.npy", np.full((9, 4), 1e300))
    np.save(bad / "strings.npy", np.array(["a", "b"]))
    np.save(bad / "deep.npy", np.zeros((2, 2, 2, 2, 2)))
    (bad / "short.idx").write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 2**31, 28, 28) + b"12")
    (bad / "damaged.npz").write_bytes(b"PK\x03\x04 nothing")
    unfinished = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 8".ljust(118) + b"\n"
    (bad / "unfinished.npy").write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(unfinished)) + unfinished)
    np.savez(bad / "archive.npz", x=np.zeros((1, 4)))
    (bad / "archive.npz").rename(bad / "archive.npy")
    save_idx(bad / "long.gz", images(2, 4, 4))
    content = gzip.decompress((bad / "long.gz").read_bytes())
    (bad / "long.gz").write_bytes(gzip.compress(content + bytes(1 << 24)))
    (bad / "empty").mkdir()
    (bad / "sizes").mkdir()
    for k in (4, 5):
        Image.fromarray(images(k, k)).save(bad / "sizes" / f"{k}.png")
    (bad / "broken").mkdir()
    (bad / "broken" / "x.png").write_bytes(b"\x89PNG nothing")
    before = {f: f.stat().st_mtime_ns for f in digits.iterdir()}
    cases = {
        ("train", "--data", "missing.npy"): "no such file",
        ("train", "--data", "bad/text.npy"): "text.npy: is not what its suffix says",
        ("train", "--data", "bad/objects.npy"): "cannot be read",
        ("train", "--data", "bad/one.npy"): "needs at least 2 samples",
        ("train", "--data", "bad/nan.npy"): "NaN or infinite",
        ("train", "--data", "bad/wide.npy"): "a Bernoulli likelihood needs [0, 1]",
        ("train", "--data", "bad/strings.npy"): "expected numbers",
        ("train", "--data", "bad/deep.npy"): "has shape (2, 2, 2, 2, 2)",
        ("train", "--data", "bad/short.idx"): "found 2",
        ("train", "--data", "bad/damaged.npz"): "cannot be read",
        ("train", "--data", "bad/unfinished.npy"): "cannot be read",
        ("train", "--data", "bad/archive.npy"): "needs at least 2 samples",
        ("train", "--data", "bad/long.gz"): "needs 32 bytes of data, found more",
        ("train", "--data", "bad/empty"): "holds no images",
        ("train", "--data", "bad/sizes"): "images must be of one size",
        ("train", "--data", "bad/broken"): "cannot be read as an image",
        ("train", "--model", "conv", "--channels", "4,8,16,32"): "sides divisible by 16",
        ("train", "--device", "nonsense"): "--device nonsense: is not a torch device",
        ("train", "--out", digits): "exists already",
        ("train", "--out", digits / "config.json" / "run"): "config.json is not a folder",
        ("train", "--model", "conv", "--channels", ""): "--channels needs one number for each stage",
        ("train", "--data", "bad/huge.npy"): "or values beyond float32",
        ("train", "--config", "bad"): "--config bad: cannot be read (Is a directory)",
        ("train", "--resume", digits): "it goes on with a larger number: --epochs",
        ("evaluate", "nowhere"): "not a run",
    }
    for arguments, message in cases.items():
        assert run(*arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error.replace("\n", " ") and "Traceback" not in error, error
        assert len([line for line in error.splitlines() if line.startswith("vaefast ")]) == 1
    for arguments, message in {
        ("train", "--epochs", "0"): "vaefast train: --epochs must be a positive whole number, got '0'",
        ("train", "--seed", str(10**30)): f"--seed must be a whole number of 64 bits, got '{10**30}'",
        ("train", "--beta", "-1"): "--beta must be a number from 0 on, got '-1'",
        ("train", "--data", ""): "--data must be digits, a file or a folder, got ''",
        (
            "train",
            "--hidden-dims",
            "4,x",
        ): "--hidden-dims must be positive whole numbers, with commas between, got '4,x'",
        ("train", "--likelihood", "x"): "vaefast train: --likelihood must be one of ",
        ("fly",): "command must be one of ",
        ("train", "--fast"): "vaefast train: does not know --fast; vaefast train --help",
        (): "the following arguments are required: command",
    }.items():
        with pytest.raises(SystemExit) as exit_:
            run(*arguments)
        error = capsys.readouterr().err
        assert exit_.value.code == 2 and message in error and len(error.splitlines()) == 1, error
    assert before == {f: f.stat().st_mtime_ns for f in digits.iterdir()}
    assert {f.name for f in tmp_path.iterdir()} == {"bad"}


def test_a_damaged_run_is_one_line(tmp_path, digits, capsys):
    def damaged(name, content):
        folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for file in digits.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / name).write_bytes(content)
        return folder

    config = json.loads((digits / "config.json").read_text())
    weights = (digits / "model.safetensors").read_bytes()
    folders = [
        damaged("config.json", b"{"),
        damaged("config.json", json.dumps({**config, "latent_dim": 10**12}).encode()),
        damaged("config.json", json.dumps({**config, "latent_dim": 3}).encode()),
        damaged("config.json", json.dumps({**config, "hidden_dims": "wide"}).encode()),
        damaged("config.json", json.dumps({**config, "hidden_dims": [10**6] * 3}).encode()),
        damaged("config.json", json.dumps({**config, "sample_shape": []}).encode()),
        damaged("config.json", json.dumps({**config, "sample_shape": {"a": 1}}).encode()),
        damaged("config.json", json.dumps({**config, "data": True}).encode()),
        damaged("config.json", json.dumps({**config, "seed": None}).encode()),
        damaged("config.json", json.dumps({**config, "likelihood": 0.5}).encode()),
        damaged("config.json", b"[" * 100_000),
        damaged("metrics.jsonl", b'{"epoch": 1, "test_elbo": "x"}\n'),
        damaged("metrics.jsonl", b"\xff\n"),
        damaged("model.safetensors", weights[:-100]),
        damaged("model.safetensors", b"\xff" * 100),
        damaged("model.safetensors", __import__("pickle").dumps({"a": 1})),
    ]
    for folder in folders:
        assert run("evaluate", folder) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1 and error.startswith("vaefast evaluate: "), error


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ((3,), TypeError, "vaefast.data.load: source must be a name or a path, got int"),
    (("digits", "a"), TypeError, "vaefast.data.load: test_fraction must be a number, got str"),
    (("digits", float("nan")), ValueError, "test_fraction must be a finite number of at least 0, got nan"),
    (("digits", -1.0), ValueError, "test_fraction must be a finite number of at least 0, got -1.0"),
    (("digits", 5), ValueError, r"vaefast.data.load: test_fraction must be in \[0, 1\], got 5"),
])  # fmt: skip
def test_wrong_arguments_of_load(arguments, error, message):
    with pytest.raises(error, match=message):
        data.load(*arguments)


def test_a_path_is_a_source(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((5, 3), np.float32))
    loaded = data.load(tmp_path / "x.npy", 0.4)
    assert loaded.name == str(tmp_path / "x.npy") and loaded.train.shape == (3, 3) and loaded.test.shape == (2, 3)
