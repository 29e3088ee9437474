"""Defects that the test command must see: each is put into a copy of the tree, and of the tests that it runs those that are
named with the defect must fail, which pass without one. Quick: only that the places of all defects are still there."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.native import ROOT

from . import Row


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    right: str
    wrong: str
    tests: str

    @property
    def found(self) -> bool:
        return (ROOT / self.file).read_text().count(self.right) == 1


TERMS, LOSSES = "tests/ops/test_term.py", "tests/losses/test_elbo.py tests/losses/test_options.py"
MIXTURES = "tests/likelihoods/test_mixtures.py"
MUTANTS = (
    # formulas
    Mutant("a sign", "csrc/math/terms/bernoulli.h", "d[0] = negative ? miss - q : q - miss", "d[0] = negative ? miss - q : q + miss", TERMS),
    Mutant("a factor", "csrc/math/terms/kl.h", "d[1] = T(0.5) * math::expm1(logvar, e)", "d[1] = math::expm1(logvar, e)", TERMS),
    Mutant("a constant", "csrc/math/terms/location_scale.h", "with_constant ? T(math::kLog2Pi) : T(0)", "T(0)", TERMS),
    Mutant("a guard", "csrc/math/terms/bernoulli.h", "miss == T(0) ? T(0) : size;", "size;", LOSSES),
    Mutant("a clamp", "csrc/math/logarithms.h", "T(0x1.a8c1f2p-122)", "T(0x1.b8c1f2p-122)", "tests/ops/test_elementary.py"),
    # loops, tiles and sums
    Mutant("one row short", "csrc/cpu/tiles.h", "(a.rows + rows_per_tile - 1) / rows_per_tile", "a.rows / rows_per_tile", TERMS),
    Mutant("a layout taken for another", "csrc/cpu/tiles.h", "(t.rows == 1 || v.row_stride == t.cols)", "true", TERMS),
    Mutant("a weight ignored", "csrc/cpu/runner.h", "if (!uniform && computed != 0)", "if (false)", TERMS),
    Mutant("a mask without its gradients", "csrc/cpu/runner.h", "each_gradient([&](int k) { loops_.keep(gradient_[k], mask, n); });", "", LOSSES),
    Mutant("a tail dropped", "csrc/cpu/loops.inl", "  for (; i < n; ++i) rest += double(x[i]);", "", TERMS),
    Mutant("a scale ignored", "csrc/cpu/loops.inl", "to[i] = T(widen(from[i])) * factor;", "to[i] = T(widen(from[i]));", LOSSES),
    Mutant("a missing load of nothing", "csrc/cpu/loops.inl", "n == 0 ? T(0) : ", "", "tests/ops/test_sample.py"),
    Mutant("a chunk prepared in another's place", "csrc/cpu/runner.h", "prepare(operand, size, value_ + begin);", "prepare(operand, size, value_);", "tests/ops/test_cpu.py"),
    Mutant("parts that nobody finishes", "csrc/cpu/sweep.cpp", "k < own + parts", "k < own + 1", "tests/ops/test_cpu.py"),
    Mutant("tiles that run twice", "csrc/cpu/sweep.cpp", "next.fetch_add(taken_at_once, ", "next.fetch_add(taken_at_once - 1, ", "tests/ops/test_cpu.py"),
    Mutant("columns of the last group alone", "csrc/cpu/runner.h", "t.cols, !first, partial", "t.cols, false, partial", TERMS),
    Mutant("groups that are not added", "csrc/cpu/sweep.cpp", "tiling.groups - 1, a.cols, true", "0, a.cols, true", TERMS),
    Mutant("counts in another's place", "csrc/cpu/loops.inl", "value[place[j]] = v[j];", "value[j] = v[j];", "tests/likelihoods/test_counts.py"),
    # counts
    Mutant("Stirling's series cut", "csrc/math/terms/negative_binomial.h", "rising.stirling_difference() - math::stirling(by_h)", "-math::stirling(by_h)", TERMS),
    Mutant("a dispersion's digamma", "csrc/math/gamma.h", "return x * one * (T(1) / sum + T(0.5) * share() * by_upper) + r * one * rest;", "return x * one * (T(1) / sum + T(0.5) * share() * by_upper);", TERMS),
    Mutant("a zero of the wrong origin", "csrc/math/terms/zero_inflated.h", "share = zero ? (negative ? p : e * p) * by_sum : T(1);", "share = T(1);", TERMS),
    Mutant("a count below 0", "csrc/math/terms/counts.h", "return x < T(0) ? -T(INFINITY) : value;", "return value;", "tests/likelihoods/test_counts.py"),
    Mutant("the side of a bin", "csrc/math/terms/logistic.h", ": T(0)) * side;", ": T(0));", TERMS),
    Mutant("degrees of freedom", "csrc/math/terms/heavy_tailed.h", "d[2] = (df + T(1)) * share - T(1);", "d[2] = df * share - T(1);", TERMS),
    # mixtures
    Mutant("another channel's coupling", "csrc/math/mixture.h", "c * (c - 1) / 2 + b", "c * (c - 1) / 2", MIXTURES),
    Mutant("a logit without its prior", "csrc/cpu/mixture.inl", "(share - prior[i] * prior_inverse[i]) * coef[i]", "share * coef[i]", MIXTURES),
    Mutant("a masked pixel's gradient", "csrc/cpu/mixture.cpp", "    if (a_.mask.data) all_.keep(x, other(4), n_);\n", "", MIXTURES),
    Mutant("components as far apart as in a small block", "csrc/cpu/mixture.inl", "x[m * apart + i] -= most[i];", "x[m * 64 + i] -= most[i];", MIXTURES),
    Mutant("a row's last block", "csrc/cpu/blocks.h", "return (a_.pixels + pixels - 1) / pixels;", "return std::max<int64_t>(1, a_.pixels / pixels);", MIXTURES),
    # noise
    Mutant("nine rounds", "csrc/cpu/noise.inl", "rounds<5, 10>(seed)", "rounds<5, 9>(seed)", "tests/ops/test_sample.py"),
    Mutant("noise from the tile", "csrc/cpu/runner.h", "uint64_t(row) * uint64_t(a_.cols) + uint64_t(t.col)", "uint64_t(t.col)", "tests/ops/test_sample.py"),
    Mutant("every chunk's noise that of the first", "csrc/cpu/runner.h", "first / 4 + b, std::min", "first / 4, std::min", "tests/ops/test_cpu.py"),
    Mutant("one key for all", "csrc/ops/cpu.cpp", "words[0] = int64_t(g->random64());", "words[0] = 42;", "tests/ops/test_sample.py"),
    # operators and autograd
    Mutant("the sum for the mean", "csrc/ops/sweep.cpp", "return 1.0 / double(rows);", "return 1.0;", LOSSES),
    Mutant("beta dropped", "csrc/ops/loss.cpp", "kl.set_coef(scale * beta, kl_weight);", "kl.set_coef(scale, kl_weight);", LOSSES),
    Mutant("upstream ignored", "csrc/ops/loss_autograd.cpp", "      give_away(grads, grad);\n", "", LOSSES),
    Mutant("upstream of a term ignored", "csrc/ops/term_autograd.cpp", "      give_away(grads, grad);\n", "", TERMS),
    Mutant("a term's gradients given twice", "csrc/ops/term_autograd.cpp", 'data["has_gradients"] = false;', "", TERMS),
    Mutant("a gradient by labels given twice", "vaefast/ops/labels.py", "        ctx.spent = True\n", "", "tests/ops/test_labels.py"),
    Mutant("a gradient of ignored labels", "vaefast/ops/labels.py", "    gradient.masked_fill_(out, 0)\n", "", "tests/ops/test_labels.py"),
    Mutant("gradients given away twice", "csrc/ops/loss_autograd.cpp", 'data["has_gradients"] = false;', "", LOSSES),
    Mutant("a second pass over constants", "csrc/ops/autograd.h", " && !t.key_set().has(c10::DispatchKey::Python)", "", "tests/matrix/test_compose.py -k double_backward"),
    Mutant("transforms unseen", "vaefast/ops/dispatch.py", "in library.DEVICES and not transformed()", "in library.DEVICES", "tests/matrix/test_compose.py -k eager"),
    Mutant("a subclass taken for its base", "vaefast/likelihoods/base.py", 'vars(cls).get("numbers")', "cls.numbers", "tests/ops/test_fast_path.py"),
    Mutant("an optimal scale taken for a fixed one", "vaefast/likelihoods/location_scale.py", ' and not getattr(self, "optimal_scale", False)', "", "tests/ops/test_fast_path.py"),
    Mutant("a float number beside doubles", "csrc/ops/fast_path.cpp", "recon_x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat", "at::kFloat", "tests/ops/test_fast_path.py"),
    Mutant("a result that Python kept, written over", "vaefast/ops/dispatch.py", "return len(node._raw_saved_tensors) > 0", "return False", "tests/losses/test_inplace.py"),
    # objectives
    Mutant("log K", "vaefast/functional/bounds.py", "return log_w.logsumexp(0) - math.log(log_w.shape[0])", "return log_w.logsumexp(0)", "tests/functional/test_objectives.py"),
    Mutant("dreg for standard", "vaefast/losses/iwae.py", "if self.gradient == \"dreg\" and z.requires_grad", "if False and z.requires_grad", "tests/functional/test_objectives.py"),
    Mutant("free bits of each element", "vaefast/functional/penalties.py", "means.clamp(min=free_bits).sum()", "kl.clamp(min=free_bits).sum(1).mean()", "tests/functional/test_kl.py tests/losses/test_options.py"),
    # runs
    Mutant("a run without its optimizer", "vaefast/cli/runs.py", "    optimizer.load_state_dict(record)\n", "", "tests/cli/test_distributed.py -k exact"),
)  # fmt: skip


def rows(quick: bool) -> Iterator[Row]:
    places = [mutant.name for mutant in MUTANTS if not mutant.found]
    yield Row("places of defects that are gone", ", ".join(places) or f"0 of {len(MUTANTS)}", "0", not places)
    if quick:
        return
    tests = tuple(dict.fromkeys(mutant.tests for mutant in MUTANTS))
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__", ".git", "build", "*.egg-info")
        shutil.copytree(ROOT, tree, ignore=ignored, dirs_exist_ok=True)
        build(tree)
        broken = failing(tests, tree)
        yield Row("tests that fail without a defect", ", ".join(broken) or f"0 of {len(tests)}", "0", not broken)
        tried = [mutant for mutant in MUTANTS if mutant.found and mutant.tests not in broken]
        survivors = [mutant.name for mutant in MUTANTS if mutant not in tried or not killed(mutant, tree)]
    seen = len(MUTANTS) - len(survivors)
    yield Row("defects that the tests see", f"{seen} of {len(MUTANTS)}{': not ' * bool(survivors)}{', '.join(survivors)}",
              f"{len(MUTANTS)} of {len(MUTANTS)}", seen == len(MUTANTS))  # fmt: skip


def failing(tests: Iterable[str], tree: Path) -> list[str]:
    """Of the tests, those that do not pass, or cannot run, in the tree as it is."""
    return [each for each in tests if pytest(each, tree) != 0]


def killed(mutant: Mutant, tree: Path) -> bool:
    """Whether a test fails, which is pytest's exit code 1, or the defect crashes the process, which is a negative one; a defect
    that does not compile, or keeps pytest from running, is a mistake of this file."""
    file = tree / mutant.file
    right = file.read_text()
    file.write_text(right.replace(mutant.right, mutant.wrong))
    native = mutant.file.startswith("csrc")
    try:
        if native:
            build(tree)
        code = pytest(mutant.tests, tree)
        print(f"{mutant.name}: pytest's exit code is {code}", file=sys.stderr)
        return code == 1 or code < 0
    finally:
        file.write_text(right)
        if native:
            build(tree)


def pytest(tests: str, tree: Path) -> int:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "", "-p", "no:cacheprovider", *tests.split()]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True).returncode


def build(tree: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
