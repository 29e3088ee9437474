"""The memory of large results (csrc/ops/buffers.h)."""

import pytest
import torch

from vaefast.functional import gaussian_kl, reparameterize
from vaefast.ops import library

LARGE = (64, 1024)  # 256 KiB


def large(*shape: int) -> torch.Tensor:
    return reparameterize(torch.zeros(shape or LARGE), torch.zeros(shape or LARGE))


@pytest.fixture(autouse=True)
def _from_nothing():
    library.empty_cache()
    yield
    library.empty_cache()


def test_a_freed_result_serves_the_next():
    first = large()
    address = first.data_ptr()
    assert library.cached_bytes() == 0
    del first
    assert library.cached_bytes() == 4 * 64 * 1024
    second, third = large(), large()
    assert second.data_ptr() == address != third.data_ptr()
    assert library.cached_bytes() == 0
    del second, third
    library.empty_cache()
    assert library.cached_bytes() == 0


def test_the_cache_has_a_limit():
    results = [large(24, 1 << 20) for _ in range(4)]  # 96 MiB each
    del results
    assert 0 < library.cached_bytes() <= 256 << 20


def test_a_large_result_is_a_tensor_like_others():
    z = large()
    z.resize_(128, 1024)
    assert z.shape == (128, 1024) and z.untyped_storage().nbytes() == 4 * 128 * 1024
    kl = gaussian_kl(torch.zeros(300, 300), torch.zeros(300, 300), reduction="elementwise")
    kl.untyped_storage().resize_(0)
    assert kl.untyped_storage().nbytes() == 0
