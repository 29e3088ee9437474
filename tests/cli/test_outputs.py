"""What is made with a run: samples, reconstructions, and programs that need torch alone."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import vaefast
from tests.support.command import QUICK, images, run, save_idx

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")
pytest.importorskip("safetensors")


def trained(folder, *options):
    assert run("train", *QUICK, *options, "--out", folder) == 0
    from vaefast.cli import runs

    return runs.load_run(folder, torch.device("cpu"))[2].eval()


@torch.no_grad()
def test_sample(tmp_path, digits, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vae = vaefast.mlp_vae((1, 8, 8), 16)
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
    vae = vaefast.mlp_vae((1, 8, 8), 16)
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
for line in sys.stdin:
    folder = Path(line.rstrip("\\n"))
    encoder, decoder = (torch.export.load(folder / f"{name}.pt2").module() for name in ("encoder", "decoder"))
    with torch.no_grad():
        for batch in (1, 9):
            x = torch.from_numpy(np.load(folder / "x.npy"))[:batch]
            mu, logvar = encoder(x)
            np.savez(folder / f"{batch}.npz", mu=mu, logvar=logvar, mean=decoder(mu))
    print("done", flush=True)
"""


@pytest.fixture(scope="module")
def alone():
    """A process that has no vaefast."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with subprocess.Popen([sys.executable, "-c", LOADED_ALONE], **pipes) as process:
        yield process  # its end closes the pipe, on which the process ends


@pytest.mark.parametrize("options", [
    [],
    pytest.param(["--likelihood", "gaussian"], marks=pytest.mark.slow),
    pytest.param(["--likelihood", "bernoulli_probs"], marks=pytest.mark.slow),
    pytest.param(["--likelihood", "continuous_bernoulli"], marks=pytest.mark.slow),
    ["--likelihood", "discretized_logistic", "--model", "conv", "--channels", "4,8"],
    pytest.param(["--likelihood", "laplace"], marks=pytest.mark.slow),
])  # fmt: skip
def test_export(tmp_path, alone, capsys, options):
    """Loaded by a Python that has no vaefast, for other batches than it was exported with, the programs are the model."""
    out = tmp_path / "run"
    vae = trained(out, *options)
    assert run("export", out) == 0
    folder = out / "exported"
    assert {f.name for f in folder.iterdir()} == {"encoder.pt2", "decoder.pt2"}
    assert "torch.export.load" in capsys.readouterr().out
    x = torch.rand(9, 1, 8, 8)
    np.save(folder / "x.npy", x.numpy())
    print(folder, file=alone.stdin, flush=True)
    assert alone.stdout.readline() == "done\n"
    with torch.no_grad():
        for batch in (1, 9):
            mu, logvar = vae.encode(x[:batch])
            mean = vae.likelihood.mean(vae.decode(mu))
            with np.load(folder / f"{batch}.npz") as got:
                for name, value in (("mu", mu), ("logvar", logvar), ("mean", mean)):
                    np.testing.assert_allclose(got[name], value.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
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
        ("export", digits, "--out", "text.txt"): "--out text.txt: is not a folder",
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


def test_help_says_how_to_load_what_was_exported(capsys):
    with pytest.raises(SystemExit):
        run("export", "--help")
    text = capsys.readouterr().out
    assert 'torch.export.load("encoder.pt2").module()' in text and "mu, logvar = encoder(x)" in text
