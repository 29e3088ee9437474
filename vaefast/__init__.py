"""vaefast: the loss side of a variational autoencoder as fused kernels for PyTorch.

>>> criterion = ELBOLoss(likelihood="bernoulli")  # in place of a hand-written VAE loss
"""

from importlib.metadata import version as _version

from . import functional, likelihoods, priors, schedules
from ._ops import empty_cache
from .builders import conv_vae, mlp_vae
from .functional import ELBO
from .iwae import IWAELoss
from .losses import ELBOLoss
from .model import VAE

__all__ = [
    "ELBO",
    "ELBOLoss",
    "IWAELoss",
    "VAE",
    "conv_vae",
    "empty_cache",
    "functional",
    "likelihoods",
    "mlp_vae",
    "priors",
    "schedules",
]
__version__ = _version("vaefast")
