"""The command line end to end: its files, its pictures, its data formats, and one line for every bad input."""

import gzip
import io
import json
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import vaefast
from vaefast import cli

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")
pytest.importorskip("safetensors")

FILES = {"metrics.jsonl", "config.json", "model.safetensors", "checkpoint.safetensors", "samples.png",
         "reconstructions.png", "curves.png"}  # fmt: skip
QUICK = ["--epochs", "2", "--hidden-dims", "16", "--latent-dim", "2", "--num-samples", "10"]


def run(*arguments):
    return cli.main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Twenty epochs on the digits, as a user would ask for them, in a process of their own."""
    out = tmp_path_factory.mktemp("digits") / "run"
    command = [sys.executable, "-m", "vaefast", "train", "--epochs", "20", "--out", str(out)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert str(out) in result.stdout
    return out


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


def save_idx(path, array):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


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
        ("train", "--data", "bad/text.npy"): "cannot be read",
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
        ("train", "--device", "nonsense"): "--device nonsense",
        ("train", "--out", digits): "exists already",
        ("train", "--out", digits / "config.json" / "run"): "config.json is no folder",
        ("train", "--model", "conv", "--channels", ""): "--channels needs one number for each stage",
        ("train", "--data", "bad/huge.npy"): "or some beyond float32",
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
        ("train", "--likelihood", "x"): "argument --likelihood: invalid choice: 'x'",
        ("fly",): "invalid choice: 'fly'",
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


# What is made with a run


def trained(folder, *options):
    assert run("train", *QUICK, *options, "--out", folder) == 0
    from vaefast import runs

    return runs.load_run(folder, torch.device("cpu"))[2].eval()


@torch.no_grad()
def test_sample(tmp_path, digits, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vae = vaefast.model.mlp_vae((1, 8, 8), 16)
    vae.load_state_dict(__import__("safetensors.torch").torch.load_file(digits / "model.safetensors"))
    for name, options in (("a", []), ("b", ["--seed", "0"]), ("c", ["--seed", "1"])):
        assert run("sample", digits, "-n", "600", *options, "--out", f"{name}.npy") == 0
    a, b, c = (np.load(f"{name}.npy") for name in "abc")
    assert a.shape == (600, 1, 8, 8) and (a == b).all() and not np.isclose(a, c).all()
    z = torch.Generator().manual_seed(0)
    expected = torch.cat([vae.sample(500, generator=z), vae.sample(100, generator=z)])
    np.testing.assert_allclose(a, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert run("sample", digits, "-n", "5") == 0
    assert capsys.readouterr().out.endswith("5 samples in samples.png\n")
    with Image.open("samples.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 20
    assert {f.name for f in tmp_path.iterdir()} == {"a.npy", "b.npy", "c.npy", "samples.png"}


@torch.no_grad()
def test_reconstruct(tmp_path, digits, capsys, monkeypatch):
    """Every kind of file: as numbers, what the model says of the file's pixels; as a picture, the first hundred."""
    monkeypatch.chdir(tmp_path)
    vae = vaefast.model.mlp_vae((1, 8, 8), 16)
    vae.load_state_dict(__import__("safetensors.torch").torch.load_file(digits / "model.safetensors"))
    gray, color = images(3, 8, 8), images(8, 8, 3)
    np.save("three.npy", gray)
    np.savez("three.npz", gray)
    save_idx(tmp_path / "three.idx", gray)
    Image.fromarray(gray[0]).save("gray.png")
    Image.fromarray(color).save("color.png")
    (tmp_path / "folder").mkdir()
    Image.fromarray(gray[1]).save("folder/one.png")
    as_gray = np.array(Image.fromarray(color).convert("L"))
    files = {"three.npy": gray, "three.npz": gray, "three.idx": gray, "gray.png": gray[:1], "color.png": as_gray[None],
             "folder": gray[1:2]}  # fmt: skip
    for name, pixels in files.items():
        assert run("reconstruct", digits, name, "--out", "made.npy") == 0
        expected = vae.reconstruct(torch.from_numpy(pixels).unsqueeze(1) / 255)
        np.testing.assert_allclose(np.load("made.npy"), expected.numpy(), rtol=1e-5, atol=1e-6)
    assert run("reconstruct", digits, *files, "--out", "made.npy") == 0
    assert np.load("made.npy").shape == (12, 1, 8, 8)
    np.save("many.npy", images(130, 8, 8))
    capsys.readouterr()
    assert run("reconstruct", digits, "many.npy", "gray.png") == 0
    assert capsys.readouterr().out == (
        "100 reconstructions in reconstructions.png, the first of 131; a .npy file takes all\n"
    )
    with Image.open("reconstructions.png") as picture:
        assert picture.height > picture.width and np.asarray(picture.convert("L")).std() > 20
    assert run("reconstruct", digits, "many.npy", "gray.png", "--out", "made.npy") == 0
    assert np.load("made.npy").shape == (131, 1, 8, 8)


LOADED_ALONE = """
import sys
sys.modules["vaefast"] = None  # an import of it fails
import numpy as np, torch
from pathlib import Path
folder = Path(sys.argv[1])
encoder, decoder = (torch.export.load(folder / f"{name}.pt2").module() for name in ("encoder", "decoder"))
with torch.no_grad():
    for batch in (1, 9):
        x = torch.from_numpy(np.load(folder / "x.npy"))[:batch]
        mu, logvar = encoder(x)
        np.savez(folder / f"{batch}.npz", mu=mu, logvar=logvar, mean=decoder(mu))
"""


@pytest.mark.parametrize("options", [
    [], ["--likelihood", "gaussian"], ["--likelihood", "bernoulli_probs"], ["--likelihood", "continuous_bernoulli"],
    ["--likelihood", "discretized_logistic", "--model", "conv", "--channels", "4,8"], ["--likelihood", "laplace"],
])  # fmt: skip
def test_export(tmp_path, capsys, options):
    """Loaded by a Python that has no vaefast, for other batches than it was exported with, the programs are the model."""
    out = tmp_path / "run"
    vae = trained(out, *options)
    assert run("export", out) == 0
    folder = out / "exported"
    assert {f.name for f in folder.iterdir()} == {"encoder.pt2", "decoder.pt2"}
    assert "torch.export.load" in capsys.readouterr().out
    x = torch.rand(9, 1, 8, 8)
    np.save(folder / "x.npy", x.numpy())
    result = subprocess.run([sys.executable, "-c", LOADED_ALONE, str(folder)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with torch.no_grad():
        for batch in (1, 9):
            mu, logvar = vae.encode(x[:batch])
            mean = vae.likelihood.mean(vae.decode(mu))
            with np.load(folder / f"{batch}.npz") as got:
                for name, value in (("mu", mu), ("logvar", logvar), ("mean", mean)):
                    np.testing.assert_allclose(got[name], value.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


def test_export_of_counts(tmp_path):
    np.save(tmp_path / "counts.npy", np.random.default_rng(0).poisson(3.0, (60, 12)))
    for likelihood in ("poisson", "negative_binomial", "zero_inflated_negative_binomial"):
        out = tmp_path / likelihood
        vae = trained(out, "--data", tmp_path / "counts.npy", "--likelihood", likelihood)
        assert run("export", out, "--out", out / "programs") == 0
        z = torch.randn(4, 2)
        with torch.no_grad():
            made = torch.export.load(out / "programs" / "decoder.pt2").module()(z)
            torch.testing.assert_close(made, vae.likelihood.mean(vae.decode(z)))


def test_export_that_is_not_the_model_is_not_written(tmp_path, digits, capsys, monkeypatch):
    load = torch.export.load

    class Wrong:
        def __init__(self, path):
            self.program = load(path)

        def module(self):
            made = self.program.module()
            return lambda x: tuple(t + 1e-3 for t in made(x))

    monkeypatch.setattr(torch.export, "load", Wrong)
    assert run("export", digits, "--out", tmp_path / "programs") == 2
    assert "encoder.pt2: the exported program is not equal to the model" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pt2"))


def test_bad_input_of_what_uses_a_run(tmp_path, digits, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("wide.npy", np.zeros((3, 9, 9), np.uint8))
    np.save("flat.npy", np.zeros((3, 64), np.float32))
    np.save("beyond.npy", np.full((3, 8, 8), 2.0))
    np.save("nan.npy", np.full((3, 8, 8), np.nan))
    Image.fromarray(images(9, 9)).save("nine.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    (tmp_path / "text.txt").write_text("not data")
    before = {f: f.read_bytes() for folder in (tmp_path, digits) for f in folder.iterdir()}
    cases = {
        ("reconstruct", digits, "none.png"): "none.png: no such file",
        ("reconstruct", digits, "wide.npy"): "wide.npy: samples have shape (1, 9, 9), the run's have (1, 8, 8)",
        ("reconstruct", digits, "flat.npy"): "samples have shape (64,)",
        ("reconstruct", digits, "beyond.npy"): "a Bernoulli likelihood needs [0, 1]",
        ("reconstruct", digits, "nan.npy"): "NaN or infinite",
        ("reconstruct", digits, "nine.png"): "nine.png: samples have shape (1, 9, 9)",
        ("reconstruct", digits, "broken.png"): "broken.png: cannot be read as an image",
        ("reconstruct", digits, "text.txt"): "not a .npy, .npz or IDX file",
        ("reconstruct", "nowhere", "wide.npy"): "not a run of vaefast train",
        ("sample", "nowhere"): "not a run of vaefast train",
        ("sample", digits, "--out", "no/samples.png"): "--out no/samples.png: there is no folder no",
        ("sample", digits, "--out", digits / "samples.png"): "a run keeps its own pictures there",
        ("evaluate", "nine.png"): "nine.png: not a run of vaefast train, which is a folder",
        ("sample", digits, "-n", "100000"): "-n 100000: a picture holds at most 2500 samples",
        ("export", "nowhere"): "not a run of vaefast train",
        ("export", digits, "--out", "text.txt"): "--out text.txt: is no folder",
    }
    for arguments, message in cases.items():
        assert run(*arguments) == 2, arguments
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1 and error.startswith(f"vaefast {arguments[0]}: "), (
            error
        )
    for arguments in (
        ["sample", digits, "-n", "0"],
        ["sample", digits, "--out", digits / "config.json"],
        ["reconstruct", digits, "wide.npy", "--out", "model.safetensors"],
        ["reconstruct", digits],
    ):
        with pytest.raises(SystemExit) as exit_:
            run(*arguments)
        assert exit_.value.code == 2
    assert before == {f: f.read_bytes() for folder in (tmp_path, digits) for f in folder.iterdir()}


# Training as a person does it


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
    ("a.json", '{"epoch": 3}', "'epoch' is no setting; did you mean epochs?"),
    ("a.json", '{"zzz": 3}', "'zzz' is no setting; there are data, likelihood"),
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
    from vaefast import progress

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
    from vaefast import training

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "draw", interrupt)
    assert run("train", *QUICK, "--out", tmp_path / "run") == 130
    assert "is whole, but for its pictures" in capsys.readouterr().err
    assert run("evaluate", tmp_path / "run", "--num-samples", "5") == 0


def test_training_that_diverges_ends(tmp_path, capsys, monkeypatch):
    assert run("train", *QUICK, "--lr", "1e30", "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "epoch 1: the bound became" in error and "a smaller --lr or smaller values may help" in error
    assert not (tmp_path / "run").exists()
    from vaefast import training

    forward, seen = training.Objective.forward, []

    def diverge(self, x, noise):
        seen.append(len(x))
        return forward(self, x, noise) * (float("nan") if sum(seen) > 2 * 1438 else 1.0)

    monkeypatch.setattr(training.Objective, "forward", diverge)
    assert run("train", *QUICK, "--epochs", "4", "--out", tmp_path / "run") == 2
    assert f"epoch 3: the bound became nan; {tmp_path / 'run'} holds the 2 before it" in capsys.readouterr().err
    assert len(rows_of(tmp_path / "run")) == 2 and run("evaluate", tmp_path / "run", "--num-samples", "5") == 0


def test_too_little_memory_is_one_line(tmp_path, capsys, monkeypatch):
    from vaefast import training

    def fail(self, x, noise):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. And more.")

    monkeypatch.setattr(training.Objective, "forward", fail)
    assert run("train", *QUICK, "--out", tmp_path / "run") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "vaefast train: CUDA out of memory; train with a smaller --batch-size"


def test_progress_moves_within_an_epoch(monkeypatch):
    """Two epochs of three, 400 samples each: what stands beside the bar, by a clock of ours."""
    from rich.console import Console

    from vaefast import progress

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


def test_help_says_how_to_load_what_was_exported(capsys):
    with pytest.raises(SystemExit):
        run("export", "--help")
    text = capsys.readouterr().out
    assert 'torch.export.load("encoder.pt2").module()' in text and "mu, logvar = encoder(x)" in text
