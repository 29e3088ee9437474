"""vaefast: the loss of a variational autoencoder as fused kernels for PyTorch.

>>> criterion = ELBOLoss(likelihood="bernoulli")  # in place of a hand-written VAE loss
"""

from importlib.metadata import version as _version

from . import functional, likelihoods, priors, schedules
from .functional import ELBO
from .losses import ELBOLoss, IWAELoss
from .model import VAE, conv_vae, mlp_vae
from .ops import build_info, cpu_isa, empty_cache

__all__ = [
    "ELBO",
    "ELBOLoss",
    "IWAELoss",
    "VAE",
    "build_info",
    "conv_vae",
    "cpu_isa",
    "empty_cache",
    "functional",
    "likelihoods",
    "mlp_vae",
    "priors",
    "schedules",
]
__version__ = _version("vaefast")
