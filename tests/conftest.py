import pytest
import torch

from vaefast import _ops


@pytest.fixture(autouse=True)
def _leave_no_trace():
    """Each test starts from one seed and leaves threads and instruction set as they were."""
    torch.manual_seed(0)
    threads, isa = torch.get_num_threads(), _ops.cpu_isa()
    yield
    torch.set_num_threads(threads)
    _ops.set_cpu_isa(isa)


@pytest.fixture(params=_ops.build_info()["cpu_isas"])
def isa(request):
    _ops.set_cpu_isa(request.param)
    return request.param
