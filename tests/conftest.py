import os
import subprocess
import sys
import tempfile

# A thread of OpenMP spins while it waits. In several processes on the same cores that takes ten times the time of the
# work. The library reads this when torch loads it; the processes that tests start inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest  # noqa: E402
import torch  # noqa: E402

from tests.support.once import once  # noqa: E402
from vaefast.ops import library  # noqa: E402


def pytest_configure(config):
    """torch.compile keeps graphs on disk by the names of their operators, whatever is behind them. Each run begins without."""
    if not hasattr(config, "workerinput"):  # the processes of pytest-xdist inherit it
        graphs = tempfile.TemporaryDirectory(prefix="vaefast-graphs-")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = graphs.name
        config.add_cleanup(graphs.cleanup)


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where tests create their tensors, unless they say")


@pytest.fixture(autouse=True)
def _leave_no_trace(request):
    """Each test starts from one seed and leaves threads, instruction set and default device as they were."""
    torch.manual_seed(0)
    threads, isa = torch.get_num_threads(), library.cpu_isa()
    if request.config.getoption("--device") != "cpu":
        torch.set_default_device(request.config.getoption("--device"))
    yield
    torch.set_default_device(None)
    torch.set_num_threads(threads)
    library.set_cpu_isa(isa)


@pytest.fixture(params=library.build_info()["cpu_isas"])
def isa(request):
    library.set_cpu_isa(request.param)
    return request.param


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """VAEFAST_REQUIRE_HOSTS=1: the tests with other libraries in them fail where one is missing."""
    report = yield
    if os.environ.get("VAEFAST_REQUIRE_HOSTS") == "1" and item.path.name in ("test_examples.py", "test_guide.py"):
        report.outcome = "failed" if report.skipped else report.outcome
    return report


@pytest.fixture
def gpu():
    """A CUDA device; without one the test is skipped, or fails where VAEFAST_REQUIRE_CUDA=1 asks for it."""
    if not torch.cuda.is_available():
        if os.environ.get("VAEFAST_REQUIRE_CUDA") == "1":
            pytest.fail("VAEFAST_REQUIRE_CUDA=1, but torch sees no GPU")
        pytest.skip("torch sees no GPU")
    assert "cuda" in library.DEVICES, "vaefast was compiled without its CUDA kernels"
    torch.set_default_device("cuda")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """Twenty epochs on the digits, as a user would ask for them, in a process of their own."""

    def train(folder):
        command = [sys.executable, "-m", "vaefast", "train", "--epochs", "20", "--out", str(folder / "run")]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert str(folder / "run") in result.stdout

    return once(tmp_path_factory, "digits", train) / "run"
