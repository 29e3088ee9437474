from collections.abc import Sequence
from typing import Any

from torch import Tensor

def build_info() -> dict[str, Any]: ...
def cpu_isa() -> str: ...
def set_cpu_isa(name: str) -> None: ...
def cached_bytes() -> int: ...
def empty_cache() -> None: ...
def plain_elbo_loss(
    likelihood: str,
    recon_x: object,
    x: object,
    mu: object,
    logvar: object,
    beta: float,
    reduction: str,
    target_scale: float,
    numbers: Sequence[float],
    /,
) -> Tensor | None: ...
